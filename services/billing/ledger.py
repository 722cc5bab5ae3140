"""The one writer of the ledger.

Strategy: one transaction per batch, under the advisory locks of its shards (SQLite: BEGIN IMMEDIATE). Inside it, and
only there, read where each workspace's books stand and which requests are on record; decide in memory (`batch`);
grow the shards' trees (`tree`); insert with one statement per table; commit. Nothing is remembered between
transactions: what is read under the lock is true until the commit, so there is no cached state that an error, or
another writer, could make stale.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
import structlog
from sqlalchemy import Connection, Engine, Select, Table, func, insert, select, text
from sqlalchemy.exc import DBAPIError

from services.billing import spend
from services.billing.append import append
from services.billing.batch import Batch, Head, Terms, json_of_columns
from services.billing.database import Row, reading, refuses, row, rows, writing
from services.billing.errors import Conflict
from services.billing.migrations import SchemaError
from services.billing.records import accept
from services.billing.stages import stage
from services.billing.tables import MAX_BALANCE_PICO, conflict, ledger_entry, quarantine, usage_record, workspace
from services.billing.turns import computing
from shared.errors import InvalidRequest, NotFound
from shared.events import Refused, UsageRecorded, shard_of
from shared.failpoints import passing
from shared.money import usd

log = structlog.get_logger()

Grown = Callable[[Connection, int, int], None]
"""(connection, shard, leaves added)"""

_AMONG_POSTGRESQL = text("request_id = ANY(CAST(:ids AS uuid[]))")
_AMONG_SQLITE = text("request_id IN (SELECT value FROM json_each(:ids))")


@dataclass(frozen=True, slots=True)
class Credit:
    """A movement of credit that no request made. `reference` is the payment's or document's id: posting it again
    changes nothing. One that `reverses` an entry has that entry's other sign: its amount is how much of it, None for
    all that is left.
    """

    workspace_id: str
    amount_pico: int | None
    reference: str
    actor: str
    reason: str | None = None
    contra: Literal["cash", "promo", "refund", "adjustment"] = "cash"
    reverses: str | None = None


class Ledger:
    """Writes the books of all shards; each method is one transaction or more, and blocks until it is committed."""

    def __init__(self, engine: Engine, shards: int = 1, grown: Grown = lambda *_: None) -> None:
        """`grown` is told of each batch, for each shard and within the transaction, how many leaves it added."""
        self._engine, self._shards, self._grown = engine, shards, grown
        self._max_balance_pico = MAX_BALANCE_PICO[engine.dialect.name]

    def check_shards(self) -> None:
        """Raise SchemaError where the books were begun with another number of shards: their locks would not meet."""
        first = select(ledger_entry.c.workspace_id, ledger_entry.c.shard).where(
            ledger_entry.c.workspace_id == workspace.c.id, ledger_entry.c.seq == 1
        )
        with reading(self._engine) as connection:
            for workspace_id, shard in connection.execute(first):
                if shard != shard_of(workspace_id, self._shards):
                    raise SchemaError(
                        f"the ledger was not begun with {self._shards} shards: set OPENTOKEN_LEDGER_SHARDS as it was"
                    )

    def record(self, events: Iterable[UsageRecorded | Refused]) -> Counter[str]:
        """Book events; see `book`."""
        return self.book([accept(event) for event in events])

    def book(self, items: Sequence[Row | Refused]) -> Counter[str]:
        """Book what was `checked`; how many were recorded, duplicate, conflict, quarantined.

        Where the database itself refuses a row, the batch is halved until the culprit is alone, and in quarantine.
        Any other SQLAlchemyError means that something is not committed: give the same again.
        """
        try:
            return self._commit(items)
        except DBAPIError as error:
            if not refuses(error):
                raise
            if len(items) > 1:
                middle = len(items) // 2
                return self.book(items[:middle]) + self.book(items[middle:])
            (item,) = items
            if isinstance(item, Refused):
                raise
            return self._commit([Refused(json_of_columns(item), f"refused by the database: {error.orig}")])

    def credit(self, credit: Credit) -> Row:
        """Post a movement and return its row; the first row again where the reference is known.

        Raises NotFound (workspace, entry reversed), Conflict (the reference stands for another movement),
        InvalidRequest (too much).
        """
        assert credit.amount_pico is not None or credit.reverses
        with writing(self._engine, shard_of(credit.workspace_id, self._shards)) as connection:
            found = heads(connection, [credit.workspace_id])
            if credit.workspace_id not in found:
                raise NotFound(f'workspace "{credit.workspace_id}" not found')
            if (first := _entry_of(connection, credit)) is not None:
                return first
            amount_pico = _amount_pico(connection, credit)
            head = found[credit.workspace_id].moved(amount_pico)
            origin = {name: getattr(credit, name) for name in ("reference", "actor", "reason", "contra", "reverses")}
            try:
                new = self._terms().entry(credit.workspace_id, head, amount_pico, **origin)
            except OverflowError as error:
                raise InvalidRequest(str(error), param="amount_usd") from None
            number = append(connection, new["shard"], [("entry/1", new)])
        log.info("credit_posted", workspace_id=credit.workspace_id, amount_pico=amount_pico, actor=credit.actor)
        return new | {"leaf_index": number}

    def _commit(self, items: Sequence[Row | Refused]) -> Counter[str]:
        usage = [item for item in items if not isinstance(item, Refused)]
        workspaces = {record["workspace_id"] for record in usage}
        with writing(self._engine, *{shard_of(name, self._shards) for name in workspaces}) as connection:
            with stage("read"):
                query = known_records({record["request_id"] for record in usage}, self._engine.dialect.name)
                known = {record["request_id"]: record for record in rows(connection, query)}
                found = heads(connection, workspaces)
            with stage("decide"), computing():
                batch = Batch(self._terms(), found, known)
                for item in items:
                    batch.add(item)
            self._insert(connection, batch)
            passing("billing.before_commit")
        for kept in batch.conflicts:
            log.error("usage_conflicts", request_id=kept["request_id"], digest=kept["digest"])
        for kept in batch.quarantine:
            log.error("usage_quarantined", reason=kept["reason"], digest=kept["digest"])
        return batch.results

    def _insert(self, connection: Connection, batch: Batch) -> None:
        for shard in {booked["shard"] for _, booked in batch.booked}:
            ours = [pair for pair in batch.booked if pair[1]["shard"] == shard]
            append(connection, shard, ours)
            self._grown(connection, shard, len(ours))
        with stage("spend"):
            spend.add(connection, batch.records)
        _insert_new(connection, conflict, batch.conflicts)
        _insert_new(connection, quarantine, batch.quarantine)

    def _terms(self) -> Terms:
        return Terms(datetime.now(UTC), self._shards, self._max_balance_pico)


def heads(connection: Connection, workspace_ids: Collection[str]) -> dict[str, Head]:
    """Where the books of these workspaces stand; those that do not exist are left out."""
    last = (
        select(ledger_entry.c.seq, ledger_entry.c.balance_after_pico)
        .where(ledger_entry.c.workspace_id == workspace.c.id)
        .order_by(ledger_entry.c.seq.desc())
        .limit(1)
    )
    # Two subqueries, each one step down an index, on either database; a join would invite another plan.
    seq = last.with_only_columns(ledger_entry.c.seq).scalar_subquery()
    balance = last.with_only_columns(ledger_entry.c.balance_after_pico).scalar_subquery()
    found = connection.execute(select(workspace.c.id, seq, balance).where(workspace.c.id.in_(workspace_ids)))
    return {id_: Head(seq or 0, balance or 0) for id_, seq, balance in found}


def known_records(request_ids: Collection[str], dialect: str) -> Select[Any]:
    """The query for those of these requests that are on record. The ids are one text: a list of thousands took longer
    to make and to parse than the look-ups.
    """
    if dialect == "sqlite":
        return select(usage_record).where(_AMONG_SQLITE).params(ids=orjson.dumps(list(request_ids)).decode())
    return select(usage_record).where(_AMONG_POSTGRESQL).params(ids=f"{{{','.join(request_ids)}}}")


def _entry_of(connection: Connection, credit: Credit) -> Row | None:
    same = (ledger_entry.c.workspace_id == credit.workspace_id) & (ledger_entry.c.reference == credit.reference)
    first = row(connection, select(ledger_entry).where(same))
    if first is None:
        return None
    asked_pico = credit.amount_pico
    if asked_pico is None:  # all that is left: of what was left then, so that a retry finds the same
        asked_pico = abs(_left_pico(connection, credit.reverses, first["seq"]))
    amount_pico = abs(first["amount_pico"]) if credit.reverses else first["amount_pico"]
    if (amount_pico, first["contra"], first["reverses"]) != (asked_pico, credit.contra, credit.reverses):
        raise Conflict(
            f'reference "{credit.reference}" stands for another credit already: use a new one', param="reference"
        )
    return first


def _amount_pico(connection: Connection, credit: Credit) -> int:
    """The signed amount; of a reversal, no more than what is left to reverse."""
    if credit.reverses is None:
        assert credit.amount_pico
        return credit.amount_pico
    ours = (ledger_entry.c.entry_id == credit.reverses) & (ledger_entry.c.workspace_id == credit.workspace_id)
    original = row(connection, select(ledger_entry).where(ours))
    if original is None:
        raise NotFound(f'entry "{credit.reverses}" not found in this workspace')
    if original["reverses"] is not None:
        raise InvalidRequest("a reversal cannot be reversed: post an adjustment instead", param="reverses")
    left_pico = abs(_left_pico(connection, credit.reverses))
    amount_pico = left_pico if credit.amount_pico is None else credit.amount_pico
    if not 0 < amount_pico <= left_pico:
        raise InvalidRequest(f"{usd(left_pico)} USD of that entry is left to reverse", param="amount_usd")
    return amount_pico if original["amount_pico"] < 0 else -amount_pico


def _left_pico(connection: Connection, entry_id: str | None, before_seq: int | None = None) -> int:
    """What reversals have left of an entry, with its sign; those before an entry's number, or all of them."""
    amount, columns = select(func.sum(ledger_entry.c.amount_pico)), ledger_entry.c
    reversals = amount.where(columns.reverses == entry_id)
    reversals = reversals if before_seq is None else reversals.where(columns.seq < before_seq)
    parts = (connection.scalar(query) or 0 for query in (amount.where(columns.entry_id == entry_id), reversals))
    return sum(map(int, parts))


def _insert_new(connection: Connection, table: Table, found: Iterable[Row]) -> None:
    """Insert rows of a working table that it does not hold yet: a redelivered message adds nothing."""
    new = {kept["digest"]: kept for kept in found}
    if not new:
        return
    for digest in connection.scalars(select(table.c.digest).where(table.c.digest.in_(new))):
        del new[digest]
    if new:
        connection.execute(insert(table), list(new.values()))
