"""The books against what a provider says it charged.

Line by line where the report goes down to the provider's request ids, else by day (UTC) and model. What we expect is
tokens × rates of every record, whatever we billed for it: an answer that broke is free for the client, not for us.
A report counts by its own clock, so a request at midnight may stand on the day beside ours.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Text, case, cast, func, literal, or_, select, type_coerce

from services.billing.columns import MOMENT_GLOB, Balance
from services.billing.records import RATES
from services.billing.reports import Report, ReportError
from services.billing.skus import same_name
from services.billing.tables import usage_record
from shared import catalog
from shared.money import usd

ROUNDING_PICO = 1_000_000  # a millionth of a dollar for each line: providers round, we do not

Class = Literal["matched", "missing", "extra", "differs"]
Key = tuple[str, ...]
"""(request id,) or (day, model)."""


@dataclass(slots=True)
class Total:
    """A sum of lines; None where no line gave it."""

    tokens: dict[str, int] | None = None
    cost_pico: int | None = None
    lines: int = 0
    estimated: int = 0

    def add(self, tokens: Mapping[str, int] | None, cost_pico: int | None) -> None:
        """Add what one more line gives."""
        if tokens is not None:
            self.tokens = {name: (self.tokens or {}).get(name, 0) + tokens[name] for name in RATES}
        if cost_pico is not None:
            self.cost_pico = (self.cost_pico or 0) + cost_pico
        self.lines += 1

    def agrees(self, theirs: "Total") -> bool:
        """Whether the other total says the same, as far as it says anything."""
        if theirs.tokens is not None and theirs.tokens != self.tokens:
            return False
        if theirs.cost_pico is None or self.cost_pico is None:
            return True
        return abs(theirs.cost_pico - self.cost_pico) <= ROUNDING_PICO * theirs.lines


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one key: `ours` or `theirs` is None where only the other side has it."""

    key: Key
    ours: Total | None
    theirs: Total | None

    @property
    def found(self) -> Class:
        """The class of the line, seen from the books."""
        if self.ours is None:
            return "extra"
        if self.theirs is None:
            return "missing"
        return "matched" if self.ours.agrees(self.theirs) else "differs"

    def json(self) -> dict[str, Any]:
        """The line for programs."""
        names = ("request_id",) if len(self.key) == 1 else ("day", "model")
        return {
            "class": self.found,
            **dict(zip(names, self.key, strict=True)),
            "books": _total_json(self.ours),
            "provider": _total_json(self.theirs),
            "estimated_requests": self.ours.estimated if self.ours else 0,
        }


def reconcile(connection: Connection, report: Report, provider: str | None) -> Iterator[Line]:
    """Every key of either side, in order. Where `provider` is None, the models charged for tell whose report it is.

    Raises ReportError where that does not tell, where the provider is unknown, where no day is covered, and where a
    record in the books has no day.
    """
    if not report.days:
        raise ReportError("it covers no day: there is nothing to compare")
    names = _names(connection)
    known = {used.provider for used in names.values()} | set(catalog.load().providers)
    if provider and provider not in known:
        raise ReportError(f"there is no provider {provider!r}: known are {', '.join(sorted(known))}")
    charged = {same_name(charge.model) for charge in report.charges}
    providers = {provider} if provider else {names[name].provider for name in charged if name in names}
    if not providers:
        raise ReportError("none of its models was ever used here: say with --provider whose report it is")
    by_request = any(charge.request_id for charge in report.charges)
    theirs = defaultdict[Key, Total](Total)
    for charge in report.charges:
        used = names.get(same_name(charge.model))
        key: Key = (charge.request_id or "",) if by_request else (charge.day, used.model if used else charge.model)
        theirs[key].add(charge.tokens, charge.cost_pico)
    ours = _books(connection, _key_columns(connection, by_request=by_request), providers, report.days)
    for key in sorted(ours.keys() | theirs.keys()):
        yield Line(key, ours.get(key), theirs.get(key))


@dataclass(frozen=True, slots=True)
class Used:
    """A model of ours, behind an upstream name."""

    model: str
    provider: str


def _names(connection: Connection) -> dict[str, Used]:
    """Every upstream name in the books, as `same_name` writes it."""
    columns = usage_record.c
    known = connection.execute(select(columns.upstream_model, columns.model, columns.provider).distinct())
    return {same_name(upstream): Used(model, provider) for upstream, model, provider in known}


def _key_columns(connection: Connection, *, by_request: bool) -> tuple[ColumnElement[str], ...]:
    if by_request:
        return (func.coalesce(usage_record.c.upstream_request_id, cast(usage_record.c.request_id, Text)),)
    return (_day(connection), usage_record.c.model)


def _day(connection: Connection) -> ColumnElement[str]:
    """The day, in UTC, on which a record's request started; null where SQLite has its time in no form of ours."""
    started_at = usage_record.c.started_at
    if connection.dialect.name == "postgresql":
        return func.to_char(func.timezone("UTC", started_at), "YYYY-MM-DD")
    written = type_coerce(started_at, Text()).op("GLOB")(literal(MOMENT_GLOB))
    return case((written, func.substr(started_at, 1, len("2026-01-31"), type_=Text())))


def _books(
    connection: Connection, by: tuple[ColumnElement[str], ...], providers: set[str], days: set[str]
) -> dict[Key, Total]:
    columns = usage_record.c
    counts = [columns[f"{name}_tokens"] for name in RATES]
    cost = sum(cast(columns[f"{name}_tokens"], Balance()) * columns[f"{name}_rate_pico"] for name in RATES)
    sums = [func.sum(cost, type_=Balance()), *(func.sum(count, type_=Balance()) for count in counts)]
    estimated = func.count().filter(columns.usage_source == "estimated")
    query = select(func.count(), estimated, *sums, *by).group_by(*by)
    day = _day(connection)
    if unread := connection.scalar(select(columns.request_id).where(day.is_(None)).limit(1)):
        raise ReportError(f"the books hold a time that is none, of request {unread}: run `opentoken verify`")
    query = query.where(columns.provider.in_(providers), day.in_(days), or_(*(n > 0 for n in counts)))
    totals: dict[Key, Total] = {}
    for lines, guessed, cost_pico, *rest in connection.execute(query):
        tokens, key = dict(zip(RATES, rest, strict=False)), tuple(rest[len(RATES) :])
        totals[key] = Total(tokens, cost_pico, lines, guessed)
    return totals


def _total_json(total: Total | None) -> dict[str, Any] | None:
    if total is None:
        return None
    return {
        "tokens": total.tokens,
        "cost_pico_usd": None if total.cost_pico is None else str(total.cost_pico),
        "cost_usd": None if total.cost_pico is None else usd(total.cost_pico),
    }
