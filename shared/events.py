"""The facts that travel over the bus: their schema, their envelope, and the names of where they travel.

One message is one JSON batch of CloudEvents 1.0 (`application/cloudevents-batch+json`). CloudEvents binds AMQP 1.0
only and knows no batch there, so the mapping to AMQP 0-9-1 is ours: content type and body as in HTTP batch mode,
no attribute in AMQP headers. Producers are strict, consumers additive within a major version.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Self, cast

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.money import Rates, Tokens, cost_pico

USAGE_RECORDED: Final = "opentoken.usage.recorded.v1"
CONTENT_TYPE: Final = "application/cloudevents-batch+json"
USAGE_EXCHANGE: Final = "usage"
PARKED_QUEUE: Final = "billing.parked"

MAX_BATCH_EVENTS = 200  # events in one message: past this, packing more no longer pays
MAX_BATCH_BYTES = 64 * 1024  # well below RabbitMQ's frame size, so a message is one frame

Outcome = Literal[
    "completed",
    "client_disconnected",
    "upstream_refused",
    "upstream_failed",
    "upstream_interrupted",
    "worker_lost",
]


@dataclass(frozen=True, slots=True)
class Terms:
    """When an outcome comes about, what its record counts, and whether that is billed at tokens × rates, or free."""

    when: str
    tokens: str
    billed: bool


POLICY: Final[Mapping[Outcome, Terms]] = {
    "completed": Terms(
        "the provider ended properly, a length limit or a content filter included",
        "as reported; where the provider gave no counts, estimated (bytes / 4) and marked so",
        billed=True,
    ),
    "client_disconnected": Terms(
        "the client left before the end",
        "where cutting the call stops the provider's meter: input as reported at the start, output estimated from what "
        "came; else the answer is read on, for 60 s at most, to the reported counts",
        billed=True,
    ),
    "upstream_refused": Terms("the provider found fault with the request (4xx)", "none", billed=False),
    "upstream_failed": Terms("nothing came: retries spent, or the deadline passed", "none", billed=False),
    "upstream_interrupted": Terms(
        "the answer broke after its first chunk", "as far as known, for reconciliation", billed=False
    ),
    "worker_lost": Terms("a worker was lost before it settled; the edge bears witness", "none", billed=False),
}
"""What is billed. What fails through us or a provider costs the client nothing, and is on record."""

BILLED: Final = frozenset(outcome for outcome, terms in POLICY.items() if terms.billed)

Count = Annotated[int, Field(ge=0)]
Pico = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]*)$")]


@lru_cache(maxsize=10_000)  # the workspaces that are busy at a time; some 2 MB
def shard_of(workspace_id: str, shards: int) -> int:
    """The shard that holds all of a workspace's entries; the same in every process and for ever."""
    return int.from_bytes(hashlib.sha256(workspace_id.encode()).digest()[:8], "big") % shards


def routing_key(shard: int) -> str:
    """The key under which a shard's usage events are published."""
    return f"usage.v1.{shard}"


def queue_of(shard: int) -> str:
    """The queue from which billing takes a shard's usage events."""
    return f"billing.usage.{shard}"


class Attempt(BaseModel):
    """One call that reached a supplier; `status` is None where no status came back."""

    model_config = ConfigDict(frozen=True, strict=True)

    supplier: str
    status: int | None
    duration_ms: Count


class TokenCounts(BaseModel):
    """`shared.money.Tokens` on the wire."""

    model_config = ConfigDict(frozen=True, strict=True)

    input: Count
    cache_read: Count
    cache_write: Count
    cache_write_1h: Count
    output: Count
    reasoning: Count


class TokenRates(BaseModel):
    """`shared.money.Rates` on the wire, in pico-dollars per token."""

    model_config = ConfigDict(frozen=True, strict=True)

    input: Count
    cache_read: Count
    cache_write: Count
    cache_write_1h: Count
    output: Count


class UsageRecorded(BaseModel):
    """What one request used and costs. Never a prompt, an answer or a key."""

    model_config = ConfigDict(frozen=True, strict=True)

    request_id: str
    workspace_id: str
    key_id: str
    lease_id: str | None = None
    provider: str
    model: str
    upstream_model: str
    supplier: str | None
    endpoint: Literal["chat.completions", "embeddings"]
    stream: bool
    outcome: Outcome
    finish_reason: str | None
    native_finish_reason: str | None
    tokens: TokenCounts
    usage_source: Literal["reported", "estimated"]
    rates_pico_usd_per_token: TokenRates
    pricing_version: str
    cost_pico_usd: Pico
    service_tier: Literal["standard", "flex"] = "standard"
    started_at: str
    first_byte_ms: Count | None
    duration_ms: Count
    upstream_request_id: str | None
    upstream_usage: dict[str, Any] | None
    attempts: list[Attempt]
    user_digest: str | None = None

    @property
    def cost(self) -> int:
        """The cost it claims, in pico-dollars."""
        return int(self.cost_pico_usd)

    @property
    def owed(self) -> int:
        """The cost recomputed from the record itself, in pico-dollars."""
        if self.outcome not in BILLED:
            return 0
        tokens, rates = cast("Tokens", self.tokens), cast("Rates", self.rates_pico_usd_per_token)  # of the same names
        return cost_pico(tokens, rates)


@dataclass(frozen=True, slots=True)
class Encoded:
    """An event ready to travel: its CloudEvent as JSON, and the workspace that decides its shard."""

    workspace_id: str
    body: bytes

    @classmethod
    def of(cls, event: UsageRecorded, source: str) -> Self:
        """The event's CloudEvent. `source` is the producing service; with the id it makes the event unique."""
        cloud_event = {
            "specversion": "1.0",
            "id": event.request_id,
            "source": f"/opentoken/{source}",
            "type": USAGE_RECORDED,
            "subject": event.workspace_id,
            "time": utc_text(datetime.now(UTC)),
            "datacontenttype": "application/json",
            "data": event.model_dump(),
        }
        return cls(event.workspace_id, orjson.dumps(cloud_event))


@dataclass(frozen=True, slots=True)
class Refused:
    """A piece of a message that is no event we know: kept whole, with the reason, for a person to look at."""

    body: bytes
    reason: str


def utc_text(moment: datetime) -> str:
    """RFC 3339 in UTC with six digits, the one form of time in events, leaves and answers."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)  # three times an event, and nearly always it is
    text = orjson.dumps(utc, option=orjson.OPT_UTC_Z).decode()  # measured: a third of what isoformat takes
    return text[1:-1] if utc.microsecond else f"{text[1:-2]}.000000Z"


def batch(events: Iterable[bytes]) -> bytes:
    """The body of one message."""
    return b"[" + b",".join(events) + b"]"


def decode(message: bytes) -> list[UsageRecorded | Refused]:
    """What a message's body holds, in order; what is not an event is returned as Refused, never dropped."""
    try:
        parts = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        return [Refused(message, f"not JSON: {error}")]
    if not isinstance(parts, list):
        return [Refused(message, "not a batch: the body must be a JSON array")]
    return [_decode_one(part, message) for part in parts]


def _decode_one(part: Any, message: bytes) -> UsageRecorded | Refused:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != USAGE_RECORDED:
        named = repr(kind) if isinstance(kind, str | None) else "that is no text"  # a deep list has no repr
        return Refused(_text(part, message), f"unknown event type {named}")
    try:
        return UsageRecorded.model_validate(part.get("data"))
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        return Refused(_text(part, message), reasons)


def _text(part: Any, message: bytes) -> bytes:
    """The part alone; where it is nested deeper than orjson writes, all of the message it came in."""
    try:
        return orjson.dumps(part)
    except TypeError:
        return message
