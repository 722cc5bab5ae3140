"""The bytes of a leaf: a row of the ledger as canonical JSON, the same on every database and for ever.

The JSON is that of RFC 8785. `k` names the kind and its version; then comes every column but `leaf_index`, which the
leaf's place in the tree says. Integers are strings, because many a reader's numbers are doubles; moments are
`utc_text`; text is NFC, and other text is refused. Another form is another `k`: these never change.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from types import NoneType
from typing import Any, Final, Literal, get_args

import orjson

from services.billing.database import Row
from shared.events import utc_text

Kind = Literal["usage/1", "entry/1"]
Type = Literal["text", "integer", "moment", "boolean"]
Text = str | bool | None
"""A value as a leaf has it: a database takes it in as it is, too."""

_USAGE_TEXT = (
    "request_id", "workspace_id", "key_id", "lease_id", "provider", "model", "upstream_model", "supplier", "endpoint",
    "outcome", "finish_reason", "native_finish_reason", "usage_source", "pricing_version", "service_tier",
    "upstream_request_id", "upstream_usage", "attempts", "user_digest",
)  # fmt: skip
_USAGE_INTEGER = (
    "shard", "input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "output_tokens",
    "reasoning_tokens", "input_rate_pico", "cache_read_rate_pico", "cache_write_rate_pico",
    "cache_write_1h_rate_pico", "output_rate_pico", "cost_pico", "first_byte_ms", "duration_ms",
)  # fmt: skip
_ENTRY_TEXT = ("entry_id", "workspace_id", "contra", "request_id", "reference", "reverses", "reason", "actor")
_ENTRY_INTEGER = ("shard", "seq", "amount_pico", "balance_after_pico")


def _columns(**names: tuple[str, ...]) -> dict[str, Any]:
    return dict(sorted((name, type_) for type_, of_type in names.items() for name in of_type))


COLUMNS: Final[Mapping[Kind, Mapping[str, Type]]] = {
    "usage/1": _columns(
        text=_USAGE_TEXT, integer=_USAGE_INTEGER, moment=("started_at", "recorded_at"), boolean=("stream",)
    ),
    "entry/1": _columns(text=_ENTRY_TEXT, integer=_ENTRY_INTEGER, moment=("recorded_at",)),
}
"""The columns of each kind, sorted; any of them may be null."""

_VALUES: Final = {kind: itemgetter(*columns) for kind, columns in COLUMNS.items()}
_BLANK: Final[Mapping[Kind, dict[str, Any]]] = {
    kind: {name: kind if name == "k" else None for name in sorted(("k", *columns))} for kind, columns in COLUMNS.items()
}
"""The members of a leaf in their order. To fill in a copy takes half of what a new dict of so many takes to grow."""


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        raise LeafError(f"{value!r} is no moment: it has no time zone")
    return utc_text(value)


_FORMS: Final[Mapping[Type, tuple[type, Callable[[Any], str] | None]]] = {
    "text": (str, None),
    "integer": (int, str),
    "moment": (datetime, _moment),
    "boolean": (bool, None),
}
"""The Python type of each, and how it is written where not as it is."""


class LeafError(ValueError):
    """A row that has no leaf, or bytes that are none; the message says why."""


def leaf(kind: Kind, row: Row) -> bytes:
    """The leaf of a row as `tables` reads it. Raises LeafError where a value has no canonical form."""
    return leaf_of(kind, texts(kind, row))


def texts(kind: Kind, row: Row) -> list[Text]:
    """The values of a row as its leaf has them, in the order of COLUMNS. Raises LeafError."""
    made: list[Any] = list(_VALUES[kind](row))
    for at, written in _written(kind, tuple(map(type, made))):
        made[at] = written(made[at])
    return made


def leaf_of(kind: Kind, texts: Sequence[Text]) -> bytes:
    """The leaf of these values. Raises LeafError where one has no canonical form."""
    members = _BLANK[kind].copy()
    members |= zip(COLUMNS[kind], texts, strict=True)
    try:
        made = orjson.dumps(members)
    except TypeError as error:
        raise LeafError(f"not writable as JSON: {error}") from None
    if not made.isascii():
        for name, value in members.items():
            if isinstance(value, str) and not unicodedata.is_normalized("NFC", value):
                raise LeafError(f"{name} is not in Unicode's normal form C")
    return made


@lru_cache(maxsize=1024)  # as good as all: a column has its type or none, and few may be null
def _written(kind: Kind, types: tuple[type, ...]) -> list[tuple[int, Callable[[Any], str]]]:
    """How to write the values of these types, those apart that stay as they are: found once, not for each row."""
    forms = []
    for at, ((name, type_), given) in enumerate(zip(COLUMNS[kind].items(), types, strict=True)):
        python_type, written = _FORMS[type_]
        if given not in {python_type, NoneType}:  # a bool is no integer here
            raise LeafError(f"{name} is of type {given.__name__}, which is no {type_}")
        if written and given is python_type:
            forms.append((at, written))
    return forms


def read(leaf_: bytes) -> tuple[Kind, dict[str, Any]]:
    """The kind and the row of a leaf. Raises LeafError unless it is byte for byte what `leaf` makes of that row."""
    try:
        members = orjson.loads(leaf_)
    except orjson.JSONDecodeError as error:
        raise LeafError(f"not JSON: {error}") from None
    kind: Any = members.pop("k", None) if isinstance(members, dict) else None
    if kind not in get_args(Kind) or members.keys() != COLUMNS[kind].keys():
        raise LeafError(f"no leaf of a known kind: k is {kind!r}")
    try:
        row = {name: _value(COLUMNS[kind][name], member) for name, member in members.items()}
    except (TypeError, ValueError) as error:
        raise LeafError(f"not a canonical leaf: {error}") from None
    if leaf(kind, row) != leaf_:
        raise LeafError("not a canonical leaf: the same row is written otherwise")
    return kind, row


def _value(type_: Type, member: Any) -> Any:
    if member is None or type_ in {"text", "boolean"}:
        return member
    return int(member) if type_ == "integer" else datetime.fromisoformat(member)
