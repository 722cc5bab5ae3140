"""The Gemini API's address, errors and counts (ai.google.dev, "API reference", v1beta; google.rpc error details).

v1beta, because preview models live there alone. There is no Retry-After header: the pause stands in RetryInfo.
"""

import math
import re
from typing import Any

from services.workers.provider import Failed, UpstreamReply, Usage, failed, json_object
from shared.errors import NoSupplier, UpstreamAuthFailed, UpstreamError
from shared.money import Tokens

CACHE = re.compile(r"cached? ?content", re.IGNORECASE)  # the Gemini API and Vertex AI word it differently


def failure(reply: UpstreamReply) -> Failed:
    """A reply whose status is not 2xx. Any body will do: a proxy in between may have written it."""
    return read_error(json_object(reply.body, or_else={}).get("error"), reply.status)


def read_error(error: Any, status: int | None = None) -> Failed:
    """An error object, with its HTTP status or, inside a stream, with its own code."""
    error = error if isinstance(error, dict) else {}
    status = status or int(error.get("code") or 500)
    words = error.get("message")
    details = [detail for detail in error.get("details") or [] if isinstance(detail, dict)]
    if any(detail.get("reason") == "API_KEY_INVALID" for detail in details):
        return Failed(UpstreamAuthFailed(), words)
    if status == 429:
        return _throttled(details, words)
    if status in {400, 403, 404} and CACHE.search(words or ""):
        return Failed(NoSupplier(), words, disproves="cache")
    if status == 400 and "Penalty is not enabled" in (words or ""):
        return Failed(UpstreamError.refused(400, words or ""), disproves="penalties")
    return failed(status, words)


def _throttled(details: list[dict[str, Any]], words: str | None) -> Failed:
    violations = [violation for detail in details for violation in detail.get("violations") or []]
    if any("PerDay" in str(violation.get("quotaId")) for violation in violations):
        return Failed(NoSupplier(), words)  # our own daily quota: no pause would help the client
    delays = [detail["retryDelay"] for detail in details if "retryDelay" in detail]
    kept = {"Retry-After": str(math.ceil(float(delays[0].removesuffix("s"))))} if delays else {}
    return Failed(UpstreamError.refused(429, words or "rate limited by the provider", kept))


def usage(raw: dict[str, Any], *, writes_cache: bool = False) -> Usage:
    """The counts in disjoint buckets: promptTokenCount has cached tokens in, candidatesTokenCount leaves thoughts out.

    Upstream counts a prefix as cached already on the request for which it was written: that one pays for writing it.
    Once upstream was seen to count the thoughts among the candidates; then the total says so.
    """
    prompt = (raw.get("promptTokenCount") or 0) + (raw.get("toolUsePromptTokenCount") or 0)
    candidates, thoughts = raw.get("candidatesTokenCount") or 0, raw.get("thoughtsTokenCount") or 0
    cached = min(raw.get("cachedContentTokenCount") or 0, prompt)
    thoughts_inside = 0 < thoughts <= candidates and prompt + candidates == raw.get("totalTokenCount")
    tokens = Tokens(
        input=prompt - cached,
        cache_read=0 if writes_cache else cached,
        cache_write=cached if writes_cache else 0,
        output=candidates if thoughts_inside else candidates + thoughts,
        reasoning=thoughts,
    )
    return Usage(tokens, raw)
