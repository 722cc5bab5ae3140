"""Reading the books: balances, usage, entries, receipts. Amounts leave here as decimal strings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Select, Table, select

from services.billing.database import Row, reading, row, rows
from services.billing.ledger import heads
from services.billing.proofs import proof_of
from services.billing.records import json_of
from services.billing.tables import ledger_entry, usage_record
from shared.errors import InvalidRequest, NotFound
from shared.events import utc_text
from shared.ids import request_id_of
from shared.money import usd

MAX_SEQ_DIGITS = 18  # every such number is within BIGINT


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list: at most `limit` rows past the one that `cursor` names, recorded from `start` to `end`."""

    limit: int
    cursor: str | None = None
    start: datetime | None = None
    end: datetime | None = None


class Books:
    """Answers about what is recorded; each method is one consistent read, and blocks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def balance(self, workspace_id: str) -> dict[str, Any]:
        """The balance after the last entry, which is number `seq`. Raises NotFound."""
        with reading(self._engine) as connection:
            head = heads(connection, [workspace_id]).get(workspace_id)
        if head is None:
            raise no_workspace(workspace_id)
        return {
            "workspace_id": workspace_id,
            "balance_pico_usd": str(head.balance_pico),
            "balance_usd": usd(head.balance_pico),
            "seq": head.seq,
            "as_of": utc_text(datetime.now(UTC)),
        }

    def usage(self, workspace_id: str, page: Page, **equal: str | None) -> dict[str, Any]:
        """A workspace's records in the order of the books. Raises NotFound, InvalidRequest (cursor)."""
        columns = usage_record.c
        query = _listed(usage_record, workspace_id, page, **equal)
        with reading(self._engine) as connection:
            if page.cursor is not None:
                last = _record(connection, page.cursor, workspace_id)
                if last is None:
                    raise bad_cursor()
                at, id_ = last["recorded_at"], last["request_id"]
                query = query.where(columns.recorded_at >= at, (columns.recorded_at > at) | (columns.request_id > id_))
            found = _page(connection, query.order_by(columns.recorded_at, columns.request_id), workspace_id)
        return listing(found, page.limit, _usage_json, "request_id")

    def entries(self, workspace_id: str, page: Page, contra: str | None) -> dict[str, Any]:
        """A workspace's entries by number. Raises NotFound, InvalidRequest (cursor)."""
        columns = ledger_entry.c
        query = _listed(ledger_entry, workspace_id, page, contra=contra)
        if page.cursor is not None:
            if not (page.cursor.isascii() and page.cursor.isdigit()) or len(page.cursor) > MAX_SEQ_DIGITS:
                raise bad_cursor()
            query = query.where(columns.seq > int(page.cursor))
        with reading(self._engine) as connection:
            found = _page(connection, query.order_by(columns.seq), workspace_id)
        return listing(found, page.limit, entry_json, "seq")

    def receipt(self, name: str, workspace_id: str | None) -> dict[str, Any]:
        """The record of one request, by its id or its answer's, with its debit. Raises NotFound."""
        with reading(self._engine) as connection:
            record = _record(connection, name, workspace_id)
            if record is None:
                raise NotFound(f'generation "{name}" not found')
            entry = row(connection, select(ledger_entry).where(ledger_entry.c.request_id == record["request_id"]))
            debit = entry and debit_json(entry) | {"proof": proof_of(connection, "entry/1", entry)}
            return json_of(record) | {"debit": debit, "proof": proof_of(connection, "usage/1", record)}


def listing(found: Sequence[Row], limit: int, json: Callable[[Row], dict[str, Any]], cursor: str) -> dict[str, Any]:
    """One page of a list, from one row more than it shows; `cursor` is the column that names a row."""
    shown, more = found[:limit], len(found) > limit
    return {
        "object": "list",
        "data": [json(each) for each in shown],
        "has_more": more,
        "next_cursor": str(shown[-1][cursor]) if more else None,
    }


def entry_json(entry: Row) -> dict[str, Any]:
    """An entry as auditors see it."""
    origin = ("contra", "request_id", "reference", "reverses", "reason", "actor")
    return {
        "entry_id": entry["entry_id"],
        "workspace_id": entry["workspace_id"],
        "seq": entry["seq"],
        "amount_pico_usd": str(entry["amount_pico"]),
        "amount_usd": usd(entry["amount_pico"]),
        "balance_after_pico_usd": str(entry["balance_after_pico"]),
        "balance_after_usd": usd(entry["balance_after_pico"]),
        **{name: entry[name] for name in origin},
        "recorded_at": utc_text(entry["recorded_at"]),
    }


def _usage_json(record: Row) -> dict[str, Any]:
    return json_of(record) | {"recorded_at": utc_text(record["recorded_at"])}


def debit_json(entry: Row) -> dict[str, Any]:
    """An entry as a part of the receipt of its request."""
    shown = ("entry_id", "seq", "amount_pico_usd", "balance_after_pico_usd")
    return {name: value for name, value in entry_json(entry).items() if name in shown} | {
        "leaf_index": entry["leaf_index"]
    }


def _listed(table: Table, workspace_id: str, page: Page, **equal: str | None) -> Select[Any]:
    columns = table.c
    query = select(table).where(columns.workspace_id == workspace_id).limit(page.limit + 1)
    for name, value in equal.items():
        query = query if value is None else query.where(columns[name] == value)
    query = query if page.start is None else query.where(columns.recorded_at >= page.start)
    return query if page.end is None else query.where(columns.recorded_at < page.end)


def _page(connection: Connection, query: Select[Any], workspace_id: str) -> Sequence[Row]:
    found = rows(connection, query)
    if not found and not heads(connection, [workspace_id]):
        raise no_workspace(workspace_id)
    return found


def _record(connection: Connection, name: str, workspace_id: str | None) -> Row | None:
    request_id = request_id_of(name)
    if request_id is None:
        return None
    query = select(usage_record).where(usage_record.c.request_id == request_id)
    if workspace_id is not None:
        query = query.where(usage_record.c.workspace_id == workspace_id)
    return row(connection, query)


def no_workspace(workspace_id: str) -> NotFound:
    """The refusal of a workspace that does not exist."""
    return NotFound(f'workspace "{workspace_id}" not found')


def bad_cursor() -> InvalidRequest:
    """The refusal of a cursor that names no row."""
    return InvalidRequest("cursor: use the next_cursor of the page before", param="cursor")
