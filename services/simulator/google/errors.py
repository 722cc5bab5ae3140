"""Google's refusals: canonical statuses, and details in place of headers (cloud.google.com/apis/design/errors)."""

from typing import Any

import orjson

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
TEXTS = {
    401: "Request had invalid authentication credentials.",
    500: "An internal error has occurred. Please retry.",
    503: "The model is overloaded. Please try again later.",
    504: "Deadline expired before operation could complete.",
}
RETRY_AFTER_S = 34.4  # not a whole number, as in real answers
PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-PaidTier"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-PaidTier"

Detail = dict[str, Any]


class Refusal(Exception):
    """A request that is answered with an error and these details."""

    def __init__(self, status: int, message: str | None = None, *details: Detail) -> None:
        self.status, self.details = status, details
        self.message = message or TEXTS.get(status, f"simulated status {status}")
        super().__init__(self.message)


def key_invalid() -> Refusal:
    """A key that Google does not know."""
    reason = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    }
    return Refusal(400, "API key not valid. Please pass a valid API key.", reason)


def exhausted(quota: str, message: str | None, retry_after_s: float | None) -> Refusal:
    """A quota that is used up; the wait is told in RetryInfo, never in a header."""
    wait_s = RETRY_AFTER_S if retry_after_s is None else retry_after_s
    violation = {
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_paid_tier_requests",
        "quotaId": quota,
        "quotaValue": "1000",
    }
    text = message or (
        f"You exceeded your current quota, please check your plan and billing details. Please retry in {wait_s:g}s."
    )
    return Refusal(
        429,
        text,
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
        retry_info(wait_s),
    )


def retry_info(wait_s: float) -> Detail:
    """When to come back."""
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{wait_s:g}s"}


def body(refusal: Refusal) -> bytes:
    """The body of an error; inside a stream it is the data of an event."""
    status = STATUSES.get(refusal.status, "UNKNOWN" if refusal.status >= 500 else STATUSES[400])
    error: dict[str, Any] = {"code": refusal.status, "message": refusal.message, "status": status}
    if refusal.details:
        error["details"] = refusal.details
    return orjson.dumps({"error": error})
