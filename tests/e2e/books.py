"""Whether the books hold what clients read: one record and one debit for each whole answer, and nothing else."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from shared.money import pico_usd
from tests.e2e.stacks import Stack, fetch, until

CREDIT_PICO = 10 * 10**12  # what the demo workspace begins with


@dataclass(frozen=True, slots=True)
class Read:
    """A whole answer, as its client read it."""

    id: str
    text: str
    cost_pico: int


def cost_pico(usage: Any) -> int:
    """The `usage.cost` that a client reads, in pico-dollars."""
    return pico_usd(f"{Decimal(repr(usage.cost)):f}")


def check(stack: Stack, reads: Collection[Read]) -> dict[str, dict[str, Any]]:
    """Wait until all that was read is on record, then compare everything; returns the records by id."""
    ids = {read.id for read in reads}
    assert len(ids) == len(reads)
    until(lambda: ids <= {record["id"] for record in stack.records()}, "every whole answer is on record")
    rows = stack.records()
    records = {record["id"]: record for record in rows}
    assert len(records) == len(rows)
    entries = [entry for entry in stack.entries() if entry["contra"] == "revenue"]
    debits = {entry["request_id"]: -int(entry["amount_pico_usd"]) for entry in entries}
    assert len(debits) == len(entries), "a request was billed twice"
    for read in reads:
        record = records[read.id]
        assert record["outcome"] == "completed"
        assert read.cost_pico == int(record["cost_pico_usd"]) == debits[record["request_id"]]
    costs = {record["request_id"]: int(record["cost_pico_usd"]) for record in records.values()}
    assert debits == {request_id: cost for request_id, cost in costs.items() if cost}
    assert stack.balance_pico() == CREDIT_PICO - sum(costs.values())
    return records


def unrecorded(stack: Stack, records: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Hold each completed record against the provider's log of what it served; returns what is in the log alone."""
    log = fetch(f"{stack.simulator_url}/simulator/served")
    assert log["dropped"] == 0
    served = {entry["upstream_request_id"]: entry for entry in log["served"]}
    for record in records.values():
        if record["outcome"] == "completed":
            assert served.pop(record["upstream_request_id"])["tokens"] == record["tokens"]
    return list(served.values())
