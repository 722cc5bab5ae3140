"""From outcome to usage record: the policy of what is billed (`shared.events.POLICY`), applied in one place."""

import hashlib
import hmac
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Literal

from services.workers.provider import Finish, ServiceTier, Usage
from shared.catalog import Model
from shared.errors import ApiError
from shared.events import BILLED, Attempt, Outcome, TokenCounts, TokenRates, UsageRecorded, utc_text
from shared.messages import TextPart
from shared.money import Tokens, cost_pico
from shared.openai import ChatRequest

BYTES_PER_TOKEN = 4  # the usual rule of thumb, where a provider gave no count


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked for what, and when."""

    request_id: str
    workspace_id: str
    key_id: str
    lease_id: str | None
    model: Model
    endpoint: Literal["chat.completions", "embeddings"]
    stream: bool
    user_digest: str | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=monotonic)


@dataclass(slots=True)
class Trail:
    """What happened on the way, noted as it happens."""

    attempts: list[Attempt] = field(default_factory=list)
    upstream_s: float = 0.0
    service_tier: ServiceTier = "standard"
    first_byte: float | None = None
    upstream_id: str | None = None


def usage_recorded(
    asked: Asked, trail: Trail, outcome: Outcome, usage: Usage | None = None, finish: Finish | None = None
) -> UsageRecorded:
    """The event of one request."""
    usage = usage or Usage(Tokens())
    rates, tokens = asked.model.rates, usage.tokens
    if trail.service_tier == "flex":
        rates = rates.halved()
    return UsageRecorded(
        request_id=asked.request_id,
        workspace_id=asked.workspace_id,
        key_id=asked.key_id,
        lease_id=asked.lease_id,
        provider=asked.model.provider,
        model=asked.model.id,
        upstream_model=asked.model.upstream,
        supplier=trail.attempts[-1].supplier if trail.attempts else None,
        endpoint=asked.endpoint,
        stream=asked.stream,
        outcome=outcome,
        finish_reason=finish.reason if finish else None,
        native_finish_reason=finish.native if finish else None,
        tokens=TokenCounts.model_validate(tokens, from_attributes=True),
        usage_source="estimated" if usage.estimated else "reported",
        rates_pico_usd_per_token=TokenRates.model_validate(rates, from_attributes=True),
        pricing_version=asked.model.pricing_version,
        cost_pico_usd=str(cost_pico(tokens, rates) if outcome in BILLED else 0),
        started_at=utc_text(asked.started_at),
        first_byte_ms=None if trail.first_byte is None else _ms(asked.started, trail.first_byte),
        duration_ms=_ms(asked.started, monotonic()),
        upstream_request_id=trail.upstream_id,
        service_tier=trail.service_tier,
        upstream_usage=usage.raw,
        attempts=trail.attempts,
        user_digest=asked.user_digest,
    )


def outcome_of(error: ApiError) -> Outcome:
    """The outcome of a request that got no answer: refused where the provider found fault with the request itself."""
    return "upstream_refused" if 400 <= error.status < 500 else "upstream_failed"


def estimated(request: ChatRequest, sent: int, counted: Usage) -> Usage:
    """Counts for an answer whose provider gave none, or not the last: bytes / 4, upwards, and marked as estimated.

    `sent` = bytes of text that came. A count that the provider did give stands.
    """
    tokens = counted.tokens
    prompt = {} if tokens.prompt else {"input": _tokens(map(len, _texts(request)))}
    output = max(tokens.output, _tokens([sent]))
    return Usage(
        Tokens(
            input=prompt.get("input", tokens.input),
            cache_read=tokens.cache_read,
            cache_write=tokens.cache_write,
            cache_write_1h=tokens.cache_write_1h,
            output=output,
            reasoning=min(tokens.reasoning, output),
        ),
        counted.raw,
        estimated=True,
    )


def trusted(request: ChatRequest, sent: int, counted: Usage) -> Usage:
    """The provider's counts; an estimate, marked as one, where it gave none for what it plainly did."""
    missing = counted.tokens.prompt == 0 or (counted.tokens.output == 0 and sent > 0)
    return estimated(request, sent, counted) if missing else counted


def digest(key: str, workspace_id: str, user: str | None) -> str | None:
    """A keyed digest of the client's `user`: the same user is recognised, and nobody can tell who it is."""
    if user is None:
        return None
    return hmac.new(key.encode(), f"{workspace_id}\0{user}".encode(), hashlib.sha256).hexdigest()[:32]


def _texts(request: ChatRequest) -> Iterable[bytes]:
    parts = (part for message in request.messages for part in message.parts)
    return (part.text.encode() for part in parts if isinstance(part, TextPart))


def _tokens(sizes: Iterable[int]) -> int:
    return math.ceil(sum(sizes) / BYTES_PER_TOKEN)


def _ms(start: float, end: float) -> int:
    return max(0, round((end - start) * 1000))
