"""The Messages API's address, headers, errors and counts (docs.claude.com, "Messages" and "Errors").

The version is pinned to 2023-06-01: 2026-10-21 answers 400 to temperature, top_p and top_k on every model,
and clients of ours may send those.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, SecretStr

from services.workers.provider import Failed, ProviderSettings, Supplier, UpstreamReply, Usage, failed, json_object
from shared.errors import NoSupplier, UpstreamError
from shared.money import Tokens

VERSION = "2023-06-01"
STATUS_OF_ERROR = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "conflict_error": 409, "request_too_large": 413, "rate_limit_error": 429,
    "api_error": 500, "timeout_error": 504, "overloaded_error": 529,
}  # fmt: skip


class Settings(ProviderSettings):
    """Where Anthropic is, and the keys for it."""

    api_key: SecretStr | None = Field(default=None, validation_alias="ANTHROPIC_API_KEY")
    base_url: str = Field(default="https://api.anthropic.com", validation_alias="ANTHROPIC_BASE_URL")


def suppliers(settings: ProviderSettings) -> list[Supplier]:
    """One supplier for each key."""
    return settings.keyed("anthropic", settings.base_url.rstrip("/"), "x-api-key")


def headers(supplier: Supplier) -> dict[str, str]:
    """The headers of every call."""
    return {**supplier.headers, "anthropic-version": VERSION, "content-type": "application/json"}


def failure(_: Supplier, reply: UpstreamReply) -> Failed:
    """A reply whose status is not 2xx. Any body will do: a proxy in between may have written it."""
    return read_error(json_object(reply.body, or_else={}), reply.status, reply.headers)


def read_error(
    body: dict[str, Any], status: int | None = None, reply_headers: Mapping[str, str] | None = None
) -> Failed:
    """An error object, with its HTTP status or, inside a stream, without one."""
    error = body["error"] if isinstance(body.get("error"), dict) else {}
    words = error.get("message")
    status = status or STATUS_OF_ERROR.get(str(error.get("type")), 500)
    if status == 429:
        return _throttled(error, words, reply_headers or {})
    return failed(status, words)


def _throttled(error: dict[str, Any], words: str | None, reply_headers: Mapping[str, str]) -> Failed:
    if (error.get("details") or {}).get("error_code") == "enforced_spend_limit_reached":
        return Failed(NoSupplier(), words)  # our own monthly limit: no pause would help the client
    kept = {"Retry-After": reply_headers["retry-after"]} if "retry-after" in reply_headers else {}
    return Failed(UpstreamError.refused(429, words or "rate limited by the provider", kept))


def usage(raw: dict[str, Any]) -> Usage:
    """The usage object in disjoint buckets: input_tokens leave cached tokens out, output_tokens have thinking in."""
    an_hour = (raw.get("cache_creation") or {}).get("ephemeral_1h_input_tokens") or 0
    written = max(raw.get("cache_creation_input_tokens") or 0, an_hour)  # the sum may be left out
    tokens = Tokens(
        input=raw.get("input_tokens") or 0,
        cache_read=raw.get("cache_read_input_tokens") or 0,
        cache_write=written - an_hour,
        cache_write_1h=an_hour,
        output=raw.get("output_tokens") or 0,
        reasoning=(raw.get("output_tokens_details") or {}).get("thinking_tokens") or 0,
    )
    return Usage(tokens, raw)
