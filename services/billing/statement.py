"""A workspace's monthly statement: what it opened with, every movement, what it closed with.

A month is a range of entry numbers, from the first one recorded in it to the last, so that opening balance, movements
and closing balance always add up, whatever a clock did. Months are in UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from services.billing.batch import Head
from services.billing.books import entry_json, no_workspace
from services.billing.database import Row, reading, row, rows
from services.billing.ledger import heads
from services.billing.records import TOKENS
from services.billing.tables import ledger_entry, signed_checkpoint, usage_record
from services.billing.windows import Window, window
from shared.errors import InvalidRequest
from shared.events import utc_text
from shared.money import usd


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month; `text` is its name, such as 2026-01."""

    text: str
    window: Window

    @classmethod
    def of(cls, text: str) -> "Month":
        """The month that `text` names. Raises InvalidRequest."""
        try:
            first = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
            if first.isoformat()[:7] != text:  # of one digit, or of another script's
                raise ValueError
            within = window("monthly", first)
        except (ValueError, OverflowError):
            raise InvalidRequest(f'"{text}" is not a month: write it as 2026-01', param="month") from None
        assert within is not None
        return cls(text, within)


class Statements:
    """Makes statements; each is one consistent read, and blocks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of(self, workspace_id: str, month: Month) -> dict[str, Any]:
        """The statement of a month, as JSON. Raises NotFound (workspace), ValueError (a time that does not read)."""
        with reading(self._engine) as connection:
            if not heads(connection, [workspace_id]):
                raise no_workspace(workspace_id)
            before = _head(connection, workspace_id, month.window.start)
            after = _head(connection, workspace_id, month.window.end)
            within = Movements(connection, workspace_id, before.seq, after.seq)
            usage, others = within.usage(), within.others()
            closing = _leaf(connection, workspace_id, after.seq)
            signed = _newest_checkpoint(connection, workspace_id)
        moved_pico = sum(line["amount_pico"] for line in usage) + sum(entry["amount_pico"] for entry in others)
        assert before.balance_pico + moved_pico == after.balance_pico, f"the month {month.text} does not add up"
        return {
            "workspace_id": workspace_id,
            "month": month.text,
            "complete": datetime.now(UTC) >= month.window.end,
            **_balance("opening", before),
            "usage": [_usage_json(line) for line in usage],
            "movements": [entry_json(entry) for entry in others],
            **_balance("closing", after),
            "closing_leaf_index": closing,
            "checkpoint": signed and signed["note"],
            "checkpoint_covers_closing": closing is not None and signed is not None and closing < signed["tree_size"],
            "as_of": utc_text(datetime.now(UTC)),
        }


@dataclass(frozen=True, slots=True)
class Movements:
    """The entries of a workspace past number `after`, up to and with number `last`."""

    connection: Connection
    workspace_id: str
    after: int
    last: int

    def usage(self) -> Sequence[Row]:
        """What requests cost, summed by model and key."""
        columns, by = usage_record.c, (usage_record.c.model, usage_record.c.key_id)
        sums = [func.sum(columns[f"{name}_tokens"]).label(name) for name in TOKENS]
        amount = func.sum(ledger_entry.c.amount_pico).label("amount_pico")
        query = select(*by, func.count().label("requests"), amount, *sums)
        query = query.join(usage_record, columns.request_id == ledger_entry.c.request_id)
        return rows(self.connection, query.where(*self._conditions()).group_by(*by).order_by(*by))

    def others(self) -> Sequence[Row]:
        """Top-ups, refunds and adjustments: one by one, since each has a document behind it, and they are few."""
        query = select(ledger_entry).where(*self._conditions(), ledger_entry.c.request_id.is_(None))
        return rows(self.connection, query.order_by(ledger_entry.c.seq))

    def _conditions(self) -> tuple[Any, ...]:
        columns = ledger_entry.c
        return (columns.workspace_id == self.workspace_id, columns.seq > self.after, columns.seq <= self.last)


def _head(connection: Connection, workspace_id: str, moment: datetime) -> Head:
    """Where the books stood just before a moment. Raises ValueError where that rests on a time in no form of ours.

    SQLite finds the entry by the text of its time, and so would miss one that was given another text: then the text of
    that entry, or of the next one, does not read.
    """
    columns = ledger_entry.c
    ours = select(columns.seq, columns.balance_after_pico, columns.recorded_at).where(
        columns.workspace_id == workspace_id
    )
    last = row(connection, ours.where(columns.recorded_at < moment).order_by(columns.seq.desc()).limit(1))
    head = Head(last["seq"], last["balance_after_pico"]) if last else Head(0, 0)
    connection.execute(ours.where(columns.seq == head.seq + 1)).all()
    return head


def _leaf(connection: Connection, workspace_id: str, seq: int) -> int | None:
    """The number of an entry's leaf; None where there is no such entry."""
    of_entry = (ledger_entry.c.workspace_id == workspace_id) & (ledger_entry.c.seq == seq)
    return connection.scalar(select(ledger_entry.c.leaf_index).where(of_entry))


def _newest_checkpoint(connection: Connection, workspace_id: str) -> Row | None:
    """Of the shard's tree: with it, each statement is one more copy that we cannot rewrite."""
    first = (ledger_entry.c.workspace_id == workspace_id) & (ledger_entry.c.seq == 1)
    shard = select(ledger_entry.c.shard).where(first).scalar_subquery()
    notes = select(signed_checkpoint.c.note, signed_checkpoint.c.tree_size).where(signed_checkpoint.c.shard == shard)
    return row(connection, notes.order_by(signed_checkpoint.c.tree_size.desc()).limit(1))


def _balance(name: str, head: Head) -> dict[str, Any]:
    return {
        f"{name}_seq": head.seq,
        f"{name}_balance_pico_usd": str(head.balance_pico),
        f"{name}_balance_usd": usd(head.balance_pico),
    }


def _usage_json(line: Row) -> dict[str, Any]:
    amount_pico = int(line["amount_pico"])
    return {
        "model": line["model"],
        "key_id": line["key_id"],
        "requests": line["requests"],
        "tokens": {name: int(line[name]) for name in TOKENS},
        "amount_pico_usd": str(amount_pico),
        "amount_usd": usd(amount_pico),
    }
