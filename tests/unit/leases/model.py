"""Edges, billing and workers in one loop over a clock of the test's own: the very arithmetic of both services.

Whatever a network, a crash or a clock can do is done at random, by a seed. A request costs at most what it holds.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from services.billing.lending import Loan, Pot, is_scarce, more_pico
from services.edge.leases import Hold, Purse
from shared.leases import Ask, Lent

CENT = 10**10
DAWN = datetime(2026, 1, 1, tzinfo=UTC)
WORKSPACE, KEY = "w", "k"


@dataclass
class Bank:
    """Billing: the balance, one key's limit, and the loans. What `told` and `more_pico` decide is all it does."""

    balance_pico: int
    limit_pico: int
    clock: "World"
    loans: dict[tuple[str, str], Loan] = field(default_factory=dict)
    booked: Counter[tuple[str, str]] = field(default_factory=Counter)
    skew: timedelta = timedelta()
    listening_since: datetime = DAWN
    least_pico: int = 0
    spent_pico: int = 0

    def __post_init__(self) -> None:
        self.least_pico = self.balance_pico

    @property
    def now(self) -> datetime:
        return DAWN + timedelta(seconds=self.clock.now) + self.skew

    def pot(self, key_id: str) -> Pot:
        limit_pico = self.limit_pico - self.spent_pico if key_id else self.balance_pico
        ours = [(name, loan) for name, loan in self.loans.items() if name[1] == key_id]
        return Pot(limit_pico, tuple(replace(loan, booked_pico=self.booked[name]) for name, loan in ours))

    def answer(self, edge: str, ask: Ask) -> Lent:
        name = (ask.lease_id, ask.key_id or "")
        loan = self.loans.get(name)
        if loan is None:
            if ask.used_pico or ask.returned_pico:
                return Lent(granted_pico=0, closed=True)
            loan = Loan(*name, edge, WORKSPACE, self.now)
        loan = self.loans[name] = loan.told(ask, self.now)
        if ask.wanted_pico <= loan.granted_pico:
            return Lent(granted_pico=loan.granted_pico, closed=loan.closed and not ask.final)
        pot = self.pot(name[1])
        loan = self.loans[name] = replace(loan, granted_pico=loan.granted_pico + more_pico(loan, ask, pot, self.now))
        short = loan.granted_pico < ask.needed_pico
        return Lent(
            granted_pico=loan.granted_pico,
            short=short,
            recalled=short and pot.is_held_by_others(edge),
            scarce=is_scarce(self.pot(name[1]), edge, self.now),
            closed=loan.closed and not ask.final,
        )

    def book(self, lease_id: str, cost_pico: int) -> None:
        """What the ledger's writer does with a record, whether there is such a loan or not."""
        self.balance_pico -= cost_pico
        self.spent_pico += cost_pico
        self.least_pico = min(self.least_pico, self.balance_pico)
        for name in ((lease_id, ""), (lease_id, KEY)):
            self.booked[name] += cost_pico

    def sweep(self) -> None:
        self.loans = {
            name: loan for name, loan in self.loans.items() if not loan.is_over(self.now, self.listening_since)
        }

    def restart(self, jump: timedelta) -> None:
        """A process whose clock was set meanwhile."""
        self.skew += jump
        self.listening_since = self.now


@dataclass
class Edge:
    """One edge: its purse, those that a change of the limit has made it leave, and the requests under way."""

    name: str
    purse: Purse = field(default_factory=lambda: Purse(WORKSPACE))
    left: list[Purse] = field(default_factory=list)
    running: list[Hold] = field(default_factory=list)


class World:
    """What happens when."""

    def __init__(self, seed: int, edges: int, *, strict: bool) -> None:
        self.random, self.now, self.strict = Random(seed), 0.0, strict
        self.bank = Bank(100 * CENT, self.random.choice((80, 200)) * CENT, self)
        self.edges = [Edge(f"edge-{number}") for number in range(edges)]
        self.largest_pico = 0
        self.let_in_pico = 0  # what all requests cost, or may
        self.most_pico = self.bank.limit_pico  # that the key may come to: its limit, or what was let in before it sank
        self.dead: list[Edge] = []
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._count = 0

    def later(self, delay_s: float, what: Callable[[], Any]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay_s, self._count, what))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until

    def delay_s(self) -> float:
        """Of a message: mostly short, at times minutes."""
        return self.random.choices((0.001, 0.01, 0.5, 5.0, 200.0), (40, 40, 10, 5, 5))[0]

    def act(self) -> None:
        """One thing that an edge does."""
        if not self.edges:
            return
        edge = self.random.choice(self.edges)
        what = self.random.choices(
            (self.request, self.finish, self.tell, self.recall, self.tick, self.die, self.leave, self.lower),
            (60, 30, 10, 5, 5, 1, 0.5, 0.5),
        )[0]
        what(edge)

    def request(self, edge: Edge) -> None:
        amount_pico = self.random.randint(1, 8 * CENT)
        request_id = str(self._count)
        hold = edge.purse.take(request_id, KEY, amount_pico, self.now)
        if hold is None and not self.strict:
            hold = edge.purse.take_last(request_id, KEY, amount_pico, self.now)
        if hold is None:
            self.ask(edge, amount_pico, less_will_do=not self.strict and self.random.random() < 0.5)
        else:
            self.largest_pico = max(self.largest_pico, amount_pico)
            self.let_in_pico += amount_pico
            edge.running.append(hold)

    def finish(self, edge: Edge) -> None:
        """A request ends: its worker's event is on its way; the edge learns the cost, or never does."""
        if not edge.running:
            return
        hold = edge.running.pop(self.random.randrange(len(edge.running)))
        cost_pico = self._publish(hold)
        if self.random.random() < 0.9:
            self._settle(hold, cost_pico)
        else:  # only billing can tell it
            self.later(1500.0, lambda: self._settle(hold, cost_pico))

    def _settle(self, hold: Hold, cost_pico: int) -> None:
        hold.settle(cost_pico)
        if hold.purse.outdated:
            hold.purse.give_back()

    def _publish(self, hold: Hold) -> int:
        cost_pico = self.random.choice((hold.amount_pico, hold.amount_pico, hold.amount_pico // 3, 0))
        self.let_in_pico += cost_pico - hold.amount_pico
        wait_s = self.random.choice((0.01, 1.0, 30.0, 1200.0))  # the last: spooled while the broker was away
        self.later(wait_s, lambda: self.bank.book(hold.purse.lease_id, cost_pico))
        return cost_pico

    def ask(self, edge: Edge, amount_pico: int = 0, **how: bool) -> None:
        self._ask_for(edge, edge.purse, amount_pico, **how)

    def _ask_for(self, edge: Edge, purse: Purse, amount_pico: int = 0, **how: bool) -> None:
        """Both leases in one call, which may be lost, late or doubled, as may its answer."""
        asked_at = self.now
        asks = [purse.ask(key_id, amount_pico, amount_pico, **how) for key_id in (None, KEY) if purse.leases(KEY)]

        def arrive() -> None:
            lent = [self.bank.answer(edge.name, ask) for ask in asks]
            if self.random.random() < 0.8:
                self.later(self.delay_s(), lambda: hear(lent))

        def hear(lent: list[Lent]) -> None:
            for ask, answer in zip(asks, lent, strict=True):
                purse.all[ask.key_id].answered(ask, answer, asked_at)
            if purse.outdated:
                purse.give_back()
            if purse.is_closed and edge.purse is purse:
                edge.purse = Purse(WORKSPACE)

        for _ in range(self.random.choice((0, 1, 1, 1, 1, 2))):
            self.later(self.delay_s(), arrive)

    def tell(self, edge: Edge) -> None:
        self.ask(edge)
        for purse in edge.left:
            self._ask_for(edge, purse, final=purse.is_idle)

    def lower(self, _: Edge) -> None:
        """The key's limit sinks, to less than was spent at times, and all edges hear of it."""
        bank = self.bank
        bank.limit_pico = self.random.randint(0, bank.limit_pico)
        self.most_pico = max(bank.limit_pico, self.let_in_pico)
        for edge in self.edges:
            edge.purse.give_back()
            edge.purse.outdated = True
            edge.left.append(edge.purse)
            edge.purse = Purse(WORKSPACE)

    def recall(self, edge: Edge) -> None:
        edge.purse.give_back()
        self.ask(edge)

    def tick(self, edge: Edge) -> None:
        for lease in edge.purse.all.values():
            lease.tick()

    def leave(self, edge: Edge) -> None:
        """It shuts down in good order."""
        while edge.running:
            self.finish(edge)
        if edge.purse.is_idle:
            edge.purse.give_back()
            self.ask(edge, final=True)
        self.edges.remove(edge)
        self.dead.append(edge)

    def die(self, edge: Edge) -> None:
        """Its workers go on, and publish what they served."""
        for hold in edge.running:
            self._publish(hold)
        self.edges.remove(edge)
        self.dead.append(edge)


def lived(seed: int, edges: int, *, strict: bool, steps: int = 400) -> World:
    """A world after many things happened to it, and everything that was on its way has arrived."""
    world = World(seed, edges, strict=strict)
    for _ in range(steps):
        world.act()
        world.run(world.now + world.random.choices((0.0, 0.01, 1.0, 20.0, 70.0), (40, 40, 15, 4, 1))[0])
        if world.random.random() < 0.02:
            world.bank.restart(timedelta(hours=world.random.uniform(-3, 3)))
        world.bank.sweep()
    for edge in tuple(world.edges):
        world.die(edge)
    world.run(world.now + 4000.0)
    return world
