"""What providers say they charged, read from the files they give out and brought to one form.

The form of a file is told by what is in it:

- a usage report, `GET /v1/organizations/usage_report/messages`: token counts by bucket of time, grouped by model
  (platform.claude.com/docs/en/api/admin/usage_report/retrieve_messages);
- a cost report, `GET /v1/organizations/cost_report`: amounts in cents by day, grouped by description
  (platform.claude.com/docs/en/api/admin/cost_report/retrieve);
- rows of a Cloud Billing export from BigQuery, standard or detailed, as JSON Lines or CSV
  (docs.cloud.google.com/billing/docs/how-to/export-data-bigquery-tables/standard-usage);
- rows of a request log, as JSON Lines or CSV, one for each of the provider's own request ids.
"""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from services.billing.records import RATES
from services.billing.skus import bucket_of, name_of
from shared.money import PICO_PER_USD

PICO_PER_CENT = PICO_PER_USD // 100
COUNTED_UNITS = frozenset({"count", "token", "tokens"})  # of an export's row: its amount is a number of tokens

KNOWN = (
    "a usage report or cost report (data, has_more), rows of a billing export (usage_start_time), "
    "or rows of a request log (upstream_request_id)"
)
MEMBERS_NAMED = 8  # of a document that is none of them: enough to recognise it by

Json = Mapping[str, Any]


class ReportError(Exception):
    """A file that cannot be read as a provider's report; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of a report: what was charged on a day (UTC) for a model, by the provider's name of it.

    `tokens` is None where the line gives no counts, `cost_pico` where it gives no amount in USD. `request_id` is the
    provider's, where the report goes down to requests.
    """

    day: str
    model: str
    tokens: Mapping[str, int] | None = None
    cost_pico: int | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All lines of a file, and the days (UTC) it covers, whether there are lines on them or not."""

    charges: list[Charge] = field(default_factory=list)
    days: set[str] = field(default_factory=set)


Form = Callable[[list[Json]], Report]
"""What makes a report of all the documents of one form."""


def read(*texts: str) -> Report:
    """The report in the texts of files, taken together: its pages may lie in one or in many. Raises ReportError."""
    forms = defaultdict[Form, list[Json]](list)
    try:
        for text in texts:
            documents = list(_documents(text))
            if not documents:
                raise ReportError("there is nothing in it")
            for document in documents:
                forms[_form(document)].append(document)
        parts = [form(documents) for form, documents in forms.items()]
    except KeyError as error:
        raise ReportError(f"one of its lines has no {error}, which its form demands") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, csv.Error) as error:
        raise ReportError(f"it is not of a form that is known: {type(error).__name__}: {error}") from None
    return Report([charge for part in parts for charge in part.charges], {day for part in parts for day in part.days})


def _form(document: Json) -> Form:
    if "data" in document and "has_more" in document:
        return _buckets
    if "upstream_request_id" in document:
        return _requests
    if "usage_start_time" in document:
        return _export
    named = ", ".join(str(name) for name in list(document)[:MEMBERS_NAMED])
    raise ReportError(f"it is not of a form that is known: {KNOWN}; it has {named}")


def _covered(days: Collection[str]) -> set[str]:
    """Every day from the first to the last: a day that was left out must not pass for one that is not covered."""
    if not days:
        return set()
    first, last = (date.fromisoformat(day).toordinal() for day in (min(days), max(days)))
    return {date.fromordinal(number).isoformat() for number in range(first, last + 1)}


def _documents(text: str) -> Iterator[Json]:
    """The objects of a JSON document, of JSON Lines or of CSV with a header."""
    if text.lstrip()[:1] not in {"{", "["}:
        yield from csv.DictReader(io.StringIO(text))
        return
    decoder, at = json.JSONDecoder(parse_float=Decimal), 0  # amounts stand there as numbers: read digit by digit
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        document, at = decoder.raw_decode(text, at)
        yield from document if isinstance(document, list) else [document]


def _buckets(pages: list[Json]) -> Report:
    for others in ("uncached_input_tokens", "amount"):
        _require_last([page for page in pages if not _gives(page, others)])
    buckets = [(_day(bucket["starting_at"]), bucket["results"]) for page in pages for bucket in page["data"]]
    charges = [_result(day, result) for day, results in buckets for result in results]
    return Report(charges, _covered([day for day, _ in buckets]))


def _gives(page: Json, member: str) -> bool:
    """Whether a page is of the kind of report that has the member; without results it may be of either."""
    return any(member in result for bucket in page["data"] for result in bucket["results"])


def _require_last(pages: list[Json]) -> None:
    """Raise ReportError where the page that goes furthest is not the last; the others may come in any order."""
    ends = [(_moment(bucket["starting_at"]), page["has_more"]) for page in pages for bucket in page["data"]]
    if max(ends, default=(None, False))[1]:
        raise ReportError("it ends in the middle: has_more is true, so fetch the next page too, and give both")


def _result(day: str, result: Json) -> Charge:
    if "uncached_input_tokens" in result:
        if result.get("model") is None:
            raise ReportError("its counts name no model: ask for it with group_by[]=model")
        return Charge(day, _text(result["model"]), _reported_tokens(result))
    if result.get("model") is None and result.get("description") is None:
        raise ReportError("its amounts name no model: ask for it with group_by[]=description")
    name = _text(result.get("model") or result["description"])
    return Charge(day, name, None, _pico(result, "amount", PICO_PER_CENT))


def _reported_tokens(result: Json) -> dict[str, int]:
    written = result.get("cache_creation") or {}
    return {
        "input": int(result["uncached_input_tokens"]),
        "cache_read": int(result["cache_read_input_tokens"]),
        "cache_write": int(written.get("ephemeral_5m_input_tokens", 0)),
        "cache_write_1h": int(written.get("ephemeral_1h_input_tokens", 0)),
        "output": int(result["output_tokens"]),
    }


def _requests(rows: list[Json]) -> Report:
    charges = [
        Charge(
            _day(row["started_at"]),
            _text(row["model"]),
            {name: int(row.get(f"{name}_tokens") or 0) for name in RATES} if "output_tokens" in row else None,
            _pico(row, "cost_usd", PICO_PER_USD) if row.get("cost_usd") else None,
            _text(row["upstream_request_id"] or ""),
        )
        for row in rows
    ]
    return Report(charges, _covered([charge.day for charge in charges]))


def _export(rows: list[Json]) -> Report:
    """An export holds all that its account pays for: only the services that count tokens are ours to compare.

    But the rows of every service tell which days it covers.
    """
    charges = [(_member(row, "service", "description"), _sku(row)) for row in rows]
    services = {service for service, charge in charges if charge.tokens is not None}
    ours = [charge for service, charge in charges if service in services]
    return Report(ours, _covered([charge.day for _, charge in charges]))


def _sku(row: Json) -> Charge:
    """A row of an export. Taxes and adjustments, and what is not counted in tokens, keep their own names."""
    day, description = _day(row["usage_start_time"]), _member(row, "sku", "description")
    usage = row.get("cost_type") in {None, "", "regular"} and _member(row, "usage", "unit") in COUNTED_UNITS
    bucket = bucket_of(description) if usage else None
    cost_pico = _pico(row, "cost", PICO_PER_USD)
    if bucket is None:
        return Charge(day, _text(description or row["cost_type"]), None, cost_pico)
    amount = round(Decimal(str(_member(row, "usage", "amount"))))
    return Charge(day, name_of(description), dict.fromkeys(RATES, 0) | {bucket: amount}, cost_pico)


def _member(row: Json, outer: str, inner: str) -> Any:
    """A nested member; in CSV it is one column, whose name joins the two by a dot or an underscore."""
    if isinstance(row.get(outer), Mapping):
        return row[outer].get(inner)
    return row.get(f"{outer}.{inner}", row.get(f"{outer}_{inner}"))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} stands where a name belongs")
    return value


def _pico(row: Json, name: str, unit_pico: int) -> int:
    if row.get("currency", "USD") != "USD":
        raise ReportError(f"an amount is in {row['currency']}, and only USD can be compared with the books")
    return round(Decimal(str(row[name])) * unit_pico)


def _day(text: str) -> str:
    return _moment(text).date().isoformat()


def _moment(text: str) -> datetime:
    """The moment, in UTC, of RFC 3339 or of BigQuery's own form, such as `2026-01-31 12:00:00 UTC`."""
    moment = datetime.fromisoformat(text.removesuffix(" UTC"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
