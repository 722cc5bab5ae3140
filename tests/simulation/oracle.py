"""The judge: what the clients saw and the provider served, against the books."""

import sqlite3
from collections import Counter
from decimal import Decimal
from typing import Any

from shared.money import PICO_PER_USD
from tests.simulation.client import Seen
from tests.simulation.network import LEARNS_S
from tests.simulation.provider import tokens_in
from tests.simulation.world import World

BILLED = {"completed", "client_disconnected"}


class Books:
    """The ledger, read past all of our own code."""

    def __init__(self, database: sqlite3.Connection) -> None:
        database.row_factory = sqlite3.Row
        self.records = {str(row["request_id"]): row for row in database.execute("SELECT * FROM usage_record")}
        entries = database.execute("SELECT * FROM ledger_entry ORDER BY seq").fetchall()
        self.credit = sum(row["amount_pico"] for row in entries if row["request_id"] is None)
        self.debits = [(str(row["request_id"]), -row["amount_pico"]) for row in entries if row["request_id"]]
        self.balance = entries[-1]["balance_after_pico"]
        (self.quarantined,) = database.execute("SELECT count(*) FROM quarantine").fetchone()

    def debits_of(self, request_id: str | None) -> list[int]:
        return [amount for name, amount in self.debits if name == request_id]


def violations(world: World, books: Books) -> list[str]:
    """Everything that billing.md does not allow; empty where all is well."""
    found = [
        *(f"request {seen.number}: {what}" for seen in world.clients for what in _of_client(world, books, seen)),
        *_of_records(world, books),
        *_of_sums(books),
        *_of_credit(world, books),
    ]
    if world.broker.parked:
        found.append(f"{world.broker.parked} messages are parked")
    if books.quarantined:
        found.append(f"{books.quarantined} events are quarantined")
    return found


def _of_client(world: World, books: Books, seen: Seen) -> list[str]:
    """Invariants 1 and 8: a whole answer has one debit, of exactly the usage that was read."""
    if not seen.whole:
        return []
    assert seen.usage is not None
    debits, record = books.debits_of(seen.request_id), books.records.get(str(seen.request_id))
    cost_pico = int(Decimal(str(seen.usage["cost"])) * PICO_PER_USD)
    if debits != [cost_pico] or record is None:
        return [f"the client read a whole answer for {cost_pico} pico; its debits are {debits}"]
    read = (seen.usage["prompt_tokens"], seen.usage["completion_tokens"])
    booked = (record["input_tokens"], record["output_tokens"])
    served = [(call.input, call.output) for call in world.provider.served(seen.number) if call.ended]
    if read != booked or read not in served:
        return [f"the client read {read}, the books say {booked}, the provider served {served}"]
    return []


def _of_records(world: World, books: Books) -> list[str]:
    """Invariants 2 and 9: nothing twice, and nothing for an answer that failed without the client's doing."""
    found: list[str] = []
    clients = {seen.number: seen for seen in world.clients}
    billed: Counter[int] = Counter()
    for request_id, row in books.records.items():
        if (row["outcome"] in BILLED) != (row["cost_pico"] > 0) or books.debits_of(request_id) != [row["cost_pico"]] * (
            row["cost_pico"] > 0
        ):
            found.append(
                f"{request_id}: {row['outcome']} costs {row['cost_pico']}, debits {books.debits_of(request_id)}"
            )
        if not row["cost_pico"]:
            continue
        number = row["input_tokens"] - tokens_in(0)
        billed[number] += 1
        seen = clients.get(number)
        if seen is None or not _may_cost(world, row, seen):
            found.append(f"{request_id}: {row['outcome']} costs {row['cost_pico']}, but the client saw {_sight(seen)}")
    found += [f"request {number} is billed {times} times" for number, times in billed.items() if times > 1]
    if not world.conditions.disk_was_full and world.spool_is_large:
        called = [clients[number] for number in sorted({call.number for call in world.provider.calls})]
        missing = [one for one in called if one.request_id and one.request_id not in books.records]
        found += [f"request {one.number} was served and has no record" for one in missing if not _died(world, one)]
    return found


def _may_cost(world: World, row: Any, seen: Seen) -> bool:
    """A billed answer was read whole, or its client left it, or what stood between them broke: then its worker took
    that for the client's leaving, or had made the usage durable already.
    """
    between = _broken(world, seen)
    if row["outcome"] == "completed":
        whole = any(call.ended and call.output == row["output_tokens"] for call in world.provider.served(seen.number))
        return whole and (seen.whole or seen.left or between)
    return seen.left or between


def _broken(world: World, seen: Seen) -> bool:
    """Whether a request's edge or worker died, or one of its connections was cut, while it was under way."""
    workers = {call.worker for call in world.provider.served(seen.number)}
    pairs = [{seen.edge, other} for other in (*workers, world.loop.outside.name)]
    ours = [{seen.edge}, *({name} for name in workers), *pairs]
    under_way = [one for one in world.conditions.breaks if seen.began_s - LEARNS_S <= one.at_s <= seen.ended_s]
    return any(one.names in ours for one in under_way)


def _died(world: World, seen: Seen) -> bool:
    """Whether a worker of this request died after it had begun, and with it what it had not made durable."""
    workers = [{call.worker} for call in world.provider.served(seen.number)]
    return any(one.names in workers and one.at_s > seen.began_s for one in world.conditions.breaks)


def _sight(seen: Seen | None) -> str:
    return "nothing" if seen is None else f"status {seen.status}, whole {seen.whole}, left {seen.left}"


def _of_sums(books: Books) -> list[str]:
    """Invariant 5: the balance is the credit less all debits."""
    owed = books.credit - sum(amount for _, amount in books.debits)
    return [] if books.balance == owed else [f"the balance is {books.balance}, and should be {owed}"]


def _of_credit(world: World, books: Books) -> list[str]:
    """Credit's bound: each edge that lived may let one request in for the last of what it was lent."""
    bound = -world.edges * max((amount for _, amount in books.debits), default=0)
    return [f"the balance is {books.balance}, below {bound}"] if books.balance < bound else []
