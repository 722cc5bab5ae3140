"""Anthropic's refusals: types by status, and their headers (docs.claude.com, "Errors", "Rate limits")."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
TEXTS = {
    401: "invalid x-api-key",
    429: "This request would exceed your organization's rate limit of 50 requests per minute.",
    500: "Internal server error",
    504: "Request timed out",
    529: "Overloaded",
}
SPEND_LIMIT = "enforced_spend_limit_reached"
RETRIED = frozenset({408, 409, 429})  # and everything from 500


class Refusal(Exception):
    """A request that is answered with an error. `code` goes into its details; `retry_after_s` into a header."""

    def __init__(
        self, status: int, message: str | None = None, *, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        self.status, self.code, self.retry_after_s = status, code, retry_after_s
        self.message = message or TEXTS.get(status, f"simulated status {status}")
        super().__init__(self.message)


def type_of(status: int) -> str:
    """The error type that goes with a status."""
    return TYPES.get(status, TYPES[500] if status >= 500 else TYPES[400])


def body(refusal: Refusal, request_id: str) -> bytes:
    """The body of an error; inside a stream it is the data of an `error` event."""
    error: dict[str, Any] = {"type": type_of(refusal.status), "message": refusal.message}
    if refusal.code is not None:
        error["details"] = {"error_code": refusal.code}
    return orjson.dumps({"type": "error", "error": error, "request_id": request_id})


def headers(refusal: Refusal) -> dict[str, str]:
    """The headers that tell a client when, and whether, to come back."""
    spent = refusal.code == SPEND_LIMIT
    retried = (refusal.status in RETRIED or refusal.status >= 500) and not spent
    told = {"x-should-retry": "true" if retried else "false"}
    wait_s = refusal.retry_after_s
    if refusal.status == 429 and not spent:
        wait_s = 1 if wait_s is None else wait_s
        reset = datetime.now(UTC) + timedelta(seconds=wait_s)
        told["anthropic-ratelimit-requests-limit"] = "50"
        told["anthropic-ratelimit-requests-remaining"] = "0"
        told["anthropic-ratelimit-requests-reset"] = reset.strftime("%Y-%m-%dT%H:%M:%SZ")
    if wait_s is not None:
        told["retry-after"] = str(math.ceil(wait_s))
    return told
