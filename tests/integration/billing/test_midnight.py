"""A key's daily limit over several edges and a midnight: real edges' leases on the real ones, by a set clock."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import pytest
from sqlalchemy import Engine, select

from services.billing.accounts import Accounts, NewKey
from services.billing.database import reading
from services.billing.leases import Leases
from services.billing.ledger import Credit as TopUp
from services.billing.ledger import Ledger
from services.billing.tables import key_spend
from services.edge import credit
from services.edge.billing import Billing
from services.edge.credit import Credit
from services.edge.leases import Wanted
from shared.changes import AccountChanged
from shared.errors import SpendLimitExceeded
from shared.ids import new_id
from shared.leases import Answers, Asks
from tests.integration.billing.clock import Clock
from tests.unit.billing.events import COST_PICO, usage

EDGES, CLIENTS = 3, 12
LIMIT = 40
HOLD_PICO = 2 * COST_PICO  # what a request may cost at most: here all cost half


@dataclass
class Day:
    """Edges before the real leases, without the network between; a recall reaches all of them."""

    leases: Leases
    ledger: Ledger
    key_id: str
    edges: list[Credit] = field(default_factory=list)

    async def answer(self, asks: Asks) -> Answers:
        answers, short = await asyncio.to_thread(self.leases.answer, asks)
        for workspace_id in short:
            for edge in self.edges:
                edge.changed(AccountChanged(workspace_id=workspace_id, reason="recall"))
        return answers

    async def spend_until_refused(self) -> None:
        await asyncio.gather(*(self._client(self.edges[number % EDGES]) for number in range(CLIENTS)))

    async def _client(self, edge: Credit) -> None:
        while True:
            try:
                hold = await edge.admit(Wanted(new_id(), "w", self.key_id, True, HOLD_PICO, strict=False))
            except SpendLimitExceeded:
                return
            event = usage(lease_id=hold.purse.lease_id, key_id=self.key_id)
            await asyncio.to_thread(self.ledger.record, [event])
            edge.settle(hold, COST_PICO)


@pytest.fixture
async def day(engine: Engine, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Day]:
    """Ten seconds to midnight, and a key that may spend forty requests a day. No machine is too slow for recalls."""
    monkeypatch.setattr(credit, "PATIENCE_S", 30.0)
    ledger.credit(TopUp("w", 10**12, "payment", "test"))
    limits = NewKey("w", "test", spend_limit_pico=LIMIT * COST_PICO, limit_reset="daily")
    row, _ = Accounts(engine).create_key(limits)
    day = Day(Leases(engine, clock, clock), ledger, str(row["id"]))
    lender = type("Lender", (), {"leases": staticmethod(day.answer)})
    day.edges = [Credit(cast("Billing", lender)) for _ in range(EDGES)]
    yield day
    for edge in day.edges:
        await edge.close()


async def test_each_day_has_its_whole_limit_and_no_more(engine: Engine, day: Day, clock: Clock) -> None:
    """Not strict: each edge may let the last request in for less than it may cost."""
    await day.spend_until_refused()
    clock.pass_(seconds=10)
    await day.spend_until_refused()
    with reading(engine) as connection:
        days = connection.execute(select(key_spend.c.day, key_spend.c.cost_pico).order_by(key_spend.c.day)).all()
    assert [day for day, _ in days] == ["2026-01-31", "2026-02-01"]
    for _, cost_pico in days:
        assert LIMIT * COST_PICO - HOLD_PICO < cost_pico < (LIMIT + EDGES) * COST_PICO
