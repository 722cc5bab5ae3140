"""A usage record in its three forms: the event that brought it, the row that keeps it, the JSON that shows it."""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final

import orjson

from services.billing.database import Row
from services.billing.stages import stage
from services.billing.tables import MAX_AMOUNT_PICO
from services.billing.turns import give_way
from shared.bus import Message
from shared.events import Refused, UsageRecorded, decode, utc_text
from shared.ids import CHAT_PREFIX, request_id_of
from shared.money import usd

MAX_TEXT_CHARS = 300  # of any name or id: two of them, in UTF-8, still fit an index of PostgreSQL's (2,704 bytes)

FIRST_YEAR = 2000  # no request started before; nor do years of fewer than four digits have a text in one form

TOKENS = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")
RATES = TOKENS[:-1]  # reasoning is a part of output, and priced there
TEXTS = (
    "request_id", "workspace_id", "key_id", "lease_id", "provider", "model", "upstream_model", "supplier",
    "endpoint", "outcome", "finish_reason", "native_finish_reason", "usage_source", "pricing_version",
    "service_tier", "upstream_request_id", "user_digest",
)  # fmt: skip
TIMES = ("first_byte_ms", "duration_ms")
"""The fields of the event that are columns as they stand, with `stream`."""

COUNTS = (*TIMES, *(f"{name}_tokens" for name in TOKENS), *(f"{name}_rate_pico" for name in RATES))
_OTHERS = ("stream", "cost_pico", "started_at", "upstream_usage", "attempts")
_BLANK: Final = dict.fromkeys((*TEXTS, *COUNTS, *_OTHERS))  # a copy takes half of what a new dict takes to grow
_texts = attrgetter(*TEXTS)  # one call for all of an event's
_counts = attrgetter(
    *TIMES, *(f"tokens.{name}" for name in TOKENS), *(f"rates_pico_usd_per_token.{name}" for name in RATES)
)


class BadEvent(ValueError):
    """An event that reads well and still cannot be booked; the message is the reason kept in quarantine."""


def checked(messages: Iterable[Message]) -> list[Row | Refused]:
    """What `accept` makes of the events in messages, in the order in which they came."""
    rows = list[Row | Refused]()
    for message in messages:
        give_way()
        with stage("decode"):
            events = decode(message.body)
        with stage("check"):
            rows += map(accept, events)
    return rows


def accept(event: UsageRecorded | Refused) -> Row | Refused:
    """The columns of `usage_record`, `recorded_at` apart, or why there are none."""
    if isinstance(event, Refused):
        return event
    try:
        return _row(event)
    except BadEvent as error:
        return Refused(_body(event), str(error))


def _row(event: UsageRecorded) -> Row:
    if request_id_of(event.request_id) != event.request_id:
        raise BadEvent("request_id is not a UUID in lower case")
    row: dict[str, Any] = _BLANK.copy()
    row |= zip(TEXTS, _fit(_texts(event)), strict=True)
    row |= zip(COUNTS, _bounded(_counts(event)), strict=True)
    row["stream"] = event.stream
    row["cost_pico"] = _cost_pico(event)
    row["started_at"] = _moment(event.started_at)
    row["upstream_usage"] = None if event.upstream_usage is None else _canonical(event.upstream_usage)
    row["attempts"] = _canonical([vars(attempt) for attempt in event.attempts])
    return row


def json_of(row: Row) -> dict[str, Any]:
    """The record as clients and auditors see it: money in decimal strings, the answer's own id as `id`."""
    chat = row["endpoint"] == "chat.completions"
    shown = (
        "request_id", "workspace_id", "key_id", "model", "provider", "upstream_model", "endpoint", "stream",
        "outcome", "finish_reason", "native_finish_reason", "usage_source", "service_tier",
    )  # fmt: skip
    return {
        "id": f"{CHAT_PREFIX if chat else ''}{row['request_id']}",
        **{name: row[name] for name in shown},
        "tokens": {name: row[f"{name}_tokens"] for name in TOKENS},
        "rates_pico_usd_per_token": {name: row[f"{name}_rate_pico"] for name in RATES},
        "pricing_version": row["pricing_version"],
        "cost_pico_usd": str(row["cost_pico"]),
        "cost_usd": usd(row["cost_pico"]),
        "started_at": utc_text(row["started_at"]),
        "first_byte_ms": row["first_byte_ms"],
        "duration_ms": row["duration_ms"],
        "upstream_request_id": row["upstream_request_id"],
        "attempts": orjson.loads(row["attempts"]),
    }


def _cost_pico(event: UsageRecorded) -> int:
    if len(event.cost_pico_usd) > len(str(MAX_AMOUNT_PICO)):  # before int(), whose own limit is an error of its own
        raise BadEvent(f"cost_pico_usd is larger than {MAX_AMOUNT_PICO}")
    cost, owed = event.cost, event.owed
    if cost != owed:
        raise BadEvent(f"cost_pico_usd is {cost}, but outcome, tokens and rates make {owed}")
    if cost > MAX_AMOUNT_PICO:
        raise BadEvent(f"cost_pico is larger than {MAX_AMOUNT_PICO}")
    return cost


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise BadEvent("started_at has no time zone")
        moment = moment.astimezone(UTC)
        if moment.year < FIRST_YEAR:
            raise BadEvent(f"started_at is before {FIRST_YEAR}")
        return moment
    except (ValueError, OverflowError) as error:
        raise BadEvent(f"started_at: {error}") from None


def _fit(texts: tuple[str | None, ...]) -> Sequence[str | None]:
    """The TEXTS in the form in which they have a leaf. Raises BadEvent where no column takes one."""
    whole = "".join(filter(None, texts))  # nearly all are plain, which one look at all of them shows
    if whole.isascii() and "\0" not in whole and max(map(len, filter(None, texts))) <= MAX_TEXT_CHARS:
        return texts
    normal = [value and unicodedata.normalize("NFC", value) for value in texts]
    for name, value in zip(TEXTS, normal, strict=True):
        if value and (len(value) > MAX_TEXT_CHARS or "\0" in value):
            raise BadEvent(f"{name} is longer than {MAX_TEXT_CHARS} characters, or contains a NUL")
    return normal


def _bounded(counts: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The COUNTS. Raises BadEvent where no column takes one."""
    if max(filter(None, counts), default=0) > MAX_AMOUNT_PICO:
        (name, *_) = (name for name, count in zip(COUNTS, counts, strict=True) if count and count > MAX_AMOUNT_PICO)
        raise BadEvent(f"{name} is larger than {MAX_AMOUNT_PICO}")
    return counts


def _canonical(value: Any) -> str:
    """JSON in one fixed form, so that the same content is the same text.

    Beyond ASCII it is escaped: to normalise a provider's text, as a leaf demands, would change what was reported.
    """
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
        return text if text.isascii() else json.dumps(value, sort_keys=True, separators=(",", ":"))
    except TypeError as error:
        raise BadEvent(f"not writable as JSON: {error}") from None


def _body(event: UsageRecorded) -> bytes:
    """The event as JSON in one fixed form, for a person to look at."""
    data = event.model_dump(exclude={"upstream_usage"})
    try:
        return orjson.dumps(data | {"upstream_usage": event.upstream_usage}, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # nested too deep to be written; no amount rests on it
        return orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
