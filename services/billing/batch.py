"""What becomes of a batch of events: pure, so that every order and every duplicate can be tried without a database.

The first record of a request wins. The same content again is a duplicate; other content is a conflict and never
changes the books; what cannot be booked goes to quarantine, whole. Records come out in order of arrival, each one
followed by its entry, which continues the workspace's last: the order of their leaves.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from services.billing.database import Row
from services.billing.leaves import Kind
from services.billing.records import BadEvent
from services.billing.tables import MAX_AMOUNT_PICO
from shared.events import Refused, shard_of
from shared.ids import new_id


class Head(NamedTuple):
    """Where a workspace's books stand: the number of its last entry and the balance after it."""

    seq: int
    balance_pico: int

    def moved(self, amount_pico: int) -> "Head":
        """Where they stand after one more entry."""
        return Head(self.seq + 1, self.balance_pico + amount_pico)


_NO_ORIGIN = {"request_id": None, "reference": None, "reverses": None, "reason": None}


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every row of one transaction."""

    recorded_at: datetime
    shards: int
    max_balance_pico: int

    def place(self, workspace_id: str) -> dict[str, Any]:
        """The columns that say when, and in which tree, a row of the workspace is booked."""
        return {"shard": shard_of(workspace_id, self.shards), "recorded_at": self.recorded_at}

    def entry(self, workspace_id: str, head: Head, amount_pico: int, **columns: str | None) -> dict[str, Any]:
        """The row of `ledger_entry` that leads to `head`. Raises OverflowError where no column can hold it."""
        if abs(amount_pico) > MAX_AMOUNT_PICO or abs(head.balance_pico) > self.max_balance_pico:
            raise OverflowError(f"a balance of {head.balance_pico} pico-dollars is more than this database can hold")
        return {
            **_NO_ORIGIN,
            "entry_id": new_id(),
            "workspace_id": workspace_id,
            "seq": head.seq,
            "amount_pico": amount_pico,
            "balance_after_pico": head.balance_pico,
            **self.place(workspace_id),
            **columns,
        }


class Batch:
    """Add rows one by one; then `booked` and the lists hold what to insert, and `results` what became of each event."""

    def __init__(self, terms: Terms, heads: Mapping[str, Head], known: Mapping[str, Row]) -> None:
        """`heads` names every workspace there is among the rows', `known` their records already in the books."""
        self._terms, self._heads, self._seen = terms, dict(heads), dict(known)
        self.booked: list[tuple[Kind, Row]] = []
        self.conflicts: list[Row] = []
        self.quarantine: list[Row] = []
        self.results: Counter[str] = Counter()

    @property
    def records(self) -> list[Row]:
        """The rows for `usage_record`."""
        return [row for kind, row in self.booked if kind == "usage/1"]

    @property
    def entries(self) -> list[Row]:
        """The rows for `ledger_entry`."""
        return [row for kind, row in self.booked if kind == "entry/1"]

    def add(self, row: Row | Refused) -> None:
        """Decide on the next one."""
        if isinstance(row, Refused):
            self._refuse(row)
        elif (first := self._seen.get(row["request_id"])) is None:
            try:
                self._book(row)
            except (BadEvent, OverflowError) as error:
                self._refuse(Refused(json_of_columns(row), str(error)))
        elif all(first[name] == value for name, value in row.items()):
            self.results["duplicate"] += 1
        else:
            self.conflicts.append(self._working_row(json_of_columns(row)) | {"request_id": row["request_id"]})
            self.results["conflict"] += 1

    def _book(self, row: Row) -> None:
        workspace_id, cost_pico = row["workspace_id"], row["cost_pico"]
        if workspace_id not in self._heads:
            raise BadEvent(f"unknown workspace {workspace_id!r}")
        booked: list[tuple[Kind, Row]] = [("usage/1", {**row, **self._terms.place(workspace_id)})]
        if cost_pico:
            head = self._heads[workspace_id].moved(-cost_pico)
            origin = {"contra": "revenue", "request_id": row["request_id"], "actor": "billing"}
            booked.append(("entry/1", self._terms.entry(workspace_id, head, -cost_pico, **origin)))
            self._heads[workspace_id] = head
        self.booked += booked
        self._seen[row["request_id"]] = row
        self.results["recorded"] += 1

    def _refuse(self, refused: Refused) -> None:
        self.quarantine.append(self._working_row(refused.body) | {"reason": refused.reason})
        self.results["quarantined"] += 1

    def _working_row(self, body: bytes) -> dict[str, Any]:
        return {"digest": hashlib.sha256(body).hexdigest(), "body": body, "recorded_at": self._terms.recorded_at}


def json_of_columns(row: Row) -> bytes:
    """A row in one fixed form, for a person to look at."""
    return orjson.dumps(dict(row), option=orjson.OPT_SORT_KEYS)
