"""Letting requests in: without a call while a lease is good, and never refused what other edges merely hold."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from time import monotonic
from typing import cast

import pytest

from services.billing.lending import GRACE
from services.edge import credit as module
from services.edge import purses
from services.edge.billing import Billing
from services.edge.credit import Credit
from services.edge.leases import Hold, Wanted
from services.edge.usual import SEEN, Usual
from shared.changes import AccountChanged
from shared.errors import BillingUnavailable, InsufficientCredit, SpendLimitExceeded
from shared.ids import new_id
from shared.leases import FLOOR_PICO, Answers, Ask, Asks
from tests.unit.leases.model import KEY, WORKSPACE, Bank, World
from tests.unit.workers.running import DEADLINE_S, until

CENT = 10**10


@dataclass
class Lender:
    """Plays billing for several edges, by the arithmetic of billing itself; a recall reaches them at once."""

    bank: Bank
    edges: list[Credit] = field(default_factory=list)
    calls: list[Asks] = field(default_factory=list)
    settled: dict[str, int] = field(default_factory=dict)
    away: bool = False

    async def leases(self, asks: Asks) -> Answers:
        await asyncio.sleep(0)
        self.calls.append(asks)
        if self.away:
            raise BillingUnavailable
        lent = [self.bank.answer(asks.edge, ask) for ask in asks.asks]
        if any(one.recalled for one in lent):
            for edge in self.edges:
                edge.changed(AccountChanged(workspace_id=WORKSPACE, reason="recall"))
        return Answers(lent=lent, settled={name: self.settled[name] for name in asks.pending if name in self.settled})

    @property
    def asks(self) -> list[Ask]:
        return [ask for call in self.calls for ask in call.asks]


@contextlib.asynccontextmanager
async def lending(balance_pico: int, limit_pico: int = 10**15, edges: int = 1) -> AsyncIterator[Lender]:
    """Billing with that much for a workspace and its key, and edges."""
    lender = Lender(Bank(balance_pico, limit_pico, World(0, 0, strict=False)))
    lender.edges = [Credit(cast("Billing", lender)) for _ in range(edges)]
    try:
        yield lender
    finally:
        lender.away = False
        for edge in lender.edges:
            await edge.close()


def wanted(amount_pico: int, *, strict: bool = False, key_id: str | None = None) -> Wanted:
    return Wanted(new_id(), WORKSPACE, key_id or "unlimited", key_id is not None, amount_pico, strict)


async def spend(lender: Lender, edge: Credit, want: Wanted, cost_pico: int) -> None:
    """A request from its gate to the books."""
    hold = await edge.admit(want)
    await asyncio.sleep(0)
    lender.bank.book(hold.purse.lease_id, cost_pico)
    edge.settle(hold, cost_pico)


async def refused(edge: Credit, want: Wanted) -> type[Exception] | None:
    try:
        await edge.admit(want)
    except (InsufficientCredit, SpendLimitExceeded, BillingUnavailable) as error:
        return type(error)
    return None


async def test_requests_go_on_without_a_call_while_the_lease_lasts() -> None:
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        for _ in range(1000):
            await spend(lender, edge, wanted(FLOOR_PICO // 500), FLOOR_PICO // 1000)
        assert len(lender.calls) < 10
    assert lender.bank.pot("").available_pico == lender.bank.balance_pico == 99 * FLOOR_PICO


async def test_what_is_spent_fast_is_lent_in_larger_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_S", 0.02)
    async with lending(10**6 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        for _ in range(5):
            for _ in range(100):
                await spend(lender, edge, wanted(FLOOR_PICO), FLOOR_PICO)
            await asyncio.sleep(0.03)  # a report is due
        begun = len(lender.calls)
        for _ in range(20):
            await spend(lender, edge, wanted(FLOOR_PICO), FLOOR_PICO)
        assert len(lender.calls) <= begun + 3


async def test_many_at_once_wait_for_one_call() -> None:
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        holds = await asyncio.gather(*(edge.admit(wanted(FLOOR_PICO // 10)) for _ in range(200)))
        assert len(lender.calls) <= 2
        for hold in holds:
            edge.settle(hold, 0)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("edges", [1, 3])
async def test_nobody_is_refused_while_the_credit_for_a_whole_request_is_there(edges: int, strict: bool) -> None:
    """Each client calls until it is refused. By then what is left must not have been enough."""
    balance, amount = 100 * CENT, 3 * CENT
    async with lending(balance, edges=edges) as lender:

        async def client(number: int) -> None:
            edge = lender.edges[number % edges]
            with contextlib.suppress(InsufficientCredit):
                while True:
                    await spend(lender, edge, wanted(amount, strict=strict), amount)

        await asyncio.gather(*(client(number) for number in range(60)))
        assert lender.bank.balance_pico < amount, "a phantom limit"
        assert lender.bank.least_pico >= (0 if strict else -edges * amount)
        assert not strict or lender.bank.balance_pico == balance % amount


@pytest.mark.parametrize("strict", [False, True])
async def test_requests_wait_for_what_running_ones_hold_and_mostly_do_not_need(strict: bool) -> None:
    async with lending(100 * CENT) as lender:
        (edge,) = lender.edges

        async def slowly() -> None:
            hold = await edge.admit(wanted(30 * CENT, strict=strict))
            await asyncio.sleep(0.05)
            lender.bank.book(hold.purse.lease_id, CENT)
            edge.settle(hold, CENT)

        await asyncio.gather(*(slowly() for _ in range(12)))
        assert lender.bank.balance_pico == 88 * CENT


async def test_once_answers_were_seen_to_be_short_many_run_at_once_for_little_credit() -> None:
    usual, running, many = Usual(WORKSPACE, "m"), list[Hold](), asyncio.Event()

    async def answered(*, alone: bool) -> None:
        want = replace(wanted(30 * CENT), usual=usual, output_pico=30 * CENT)
        running.append(hold := await edge.admit(want))
        if alone or len(running) > 50:
            many.set()
        async with asyncio.timeout(DEADLINE_S):
            await many.wait()
        lender.bank.book(hold.purse.lease_id, CENT // 10)
        edge.settle(hold, CENT // 10)
        want.cost(CENT // 10)

    async with lending(100 * CENT) as lender:
        (edge,) = lender.edges
        for _ in range(SEEN):
            await answered(alone=True)
        running.clear()
        many.clear()
        # By the longest answers that they could have had, there is credit for three.
        await asyncio.gather(*(answered(alone=False) for _ in range(100 - SEEN)))
        assert lender.bank.balance_pico == 90 * CENT


async def test_nobody_waits_for_what_even_the_end_of_all_running_requests_would_not_leave() -> None:
    async with lending(10 * CENT) as lender:
        (edge,) = lender.edges
        long = await edge.admit(wanted(9 * CENT))
        edge.settle(await edge.admit(wanted(CENT)), 10 * CENT)
        begun = monotonic()
        assert await refused(edge, wanted(1)) is InsufficientCredit
        assert monotonic() < begun + module.HELD_PATIENCE_S / 2
        edge.settle(long, 0)


async def test_the_workspaces_credit_is_asked_for_before_the_keys_limit() -> None:
    async with lending(0, 0) as lender:
        assert await refused(lender.edges[0], wanted(1, key_id=KEY)) is InsufficientCredit
    async with lending(CENT, 0) as lender:
        assert await refused(lender.edges[0], wanted(1, key_id=KEY)) is SpendLimitExceeded
        assert await refused(lender.edges[0], wanted(1)) is None


async def test_a_keys_limit_holds_over_all_edges() -> None:
    async with lending(100 * CENT, 10 * CENT, edges=3) as lender:

        async def client(number: int) -> None:
            with contextlib.suppress(SpendLimitExceeded):
                while True:
                    await spend(lender, lender.edges[number % 3], wanted(CENT, key_id=KEY), CENT)

        await asyncio.gather(*(client(number) for number in range(12)))
        assert lender.bank.spent_pico == 10 * CENT


async def test_a_small_request_is_not_refused_because_a_large_one_is() -> None:
    async with lending(5 * CENT) as lender:
        (edge,) = lender.edges
        large, small = await asyncio.gather(
            refused(edge, wanted(8 * CENT, strict=True)), refused(edge, wanted(5 * CENT, strict=True))
        )
        assert (large, small) == (InsufficientCredit, None)


async def test_while_billing_is_away_what_was_lent_is_used_up_and_then_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "AWAY_PATIENCE_S", 0.0)
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        await spend(lender, edge, wanted(FLOOR_PICO // 4), FLOOR_PICO // 4)
        lender.away = True
        for _ in range(SEEN):
            await spend(lender, edge, wanted(FLOOR_PICO // 4), FLOOR_PICO // 4)
        assert await refused(edge, wanted(1)) is BillingUnavailable
        lender.away = False
        assert await refused(edge, wanted(1)) is None
    assert lender.bank.balance_pico == 99 * FLOOR_PICO


async def test_a_request_that_billing_is_needed_for_waits_for_its_restart() -> None:
    async with lending(100 * FLOOR_PICO) as lender:
        lender.away = True
        admitted = asyncio.create_task(lender.edges[0].admit(wanted(1)))
        await until(lambda: len(lender.calls) > 1, "it tries again")
        lender.away = False
        lender.edges[0].settle(await admitted, 0)


async def test_while_billing_is_away_a_request_waits_for_what_others_held_too_much() -> None:
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        first = await edge.admit(wanted(1))
        second = await edge.admit(wanted(first.purse.credit.left_pico))
        lender.away = True
        admitted = asyncio.create_task(edge.admit(wanted(FLOOR_PICO // 2)))
        await until(lambda: lender.calls[-1].asks[0].needed_pico > 0, "it asks")
        edge.settle(second, 0)
        edge.settle(await admitted, 0)
        edge.settle(first, 0)


async def test_a_lease_that_was_not_renewed_in_time_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        await spend(lender, edge, wanted(1), 1)
        lender.away = True
        now = monotonic()
        monkeypatch.setattr(module, "monotonic", lambda: now + 61.0)
        monkeypatch.setattr(module, "AWAY_PATIENCE_S", 0.0)
        assert await refused(edge, wanted(1)) is BillingUnavailable
        monkeypatch.undo()


async def test_what_only_the_worker_knows_stays_held_until_billing_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_S", 0.02)
    async with lending(10 * CENT) as lender:
        (edge,) = lender.edges
        hold = await edge.admit(wanted(8 * CENT, strict=True))
        edge.settle(hold, None)
        assert await refused(edge, wanted(5 * CENT, strict=True)) is InsufficientCredit
        lender.bank.book(hold.purse.lease_id, 3 * CENT)
        lender.settled[hold.request_id] = 3 * CENT
        await until(lambda: hold.purse.is_idle, "billing was asked")
        assert await refused(edge, wanted(5 * CENT, strict=True)) is None


async def test_what_no_worker_ever_recorded_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_S", 0.02)
    monkeypatch.setattr(purses, "PENDING_S", 0.0)
    async with lending(10 * CENT) as lender:
        (edge,) = lender.edges
        hold = await edge.admit(wanted(8 * CENT))
        edge.settle(hold, None)
        await until(lambda: hold.purse.is_idle, "it is too old")
        assert await refused(edge, wanted(10 * CENT, strict=True)) is None


async def test_a_change_brings_back_what_is_not_in_use() -> None:
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        hold = await edge.admit(wanted(7))
        edge.changed(AccountChanged(workspace_id=WORKSPACE))
        await until(lambda: lender.bank.pot("").available_pico == 100 * FLOOR_PICO - 7, "all but the hold is back")
        edge.settle(hold, 7)


async def test_an_idle_workspaces_credit_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_S", 0.02)
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        await spend(lender, edge, wanted(7), 7)
        monkeypatch.setattr(purses, "IDLE_S", 0.0)
        await until(lambda: lender.asks[-1].final, "the lease is closed")
        assert lender.bank.pot("").available_pico == lender.bank.balance_pico
        assert await refused(edge, wanted(7)) is None, "and another one begins"


async def test_a_lease_that_billing_gave_up_is_replaced() -> None:
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        await spend(lender, edge, wanted(7), 7)
        lender.bank.loans.clear()
        assert await refused(edge, wanted(2 * FLOOR_PICO)) is None


async def test_at_the_end_everything_is_given_back_but_what_may_still_be_billed() -> None:
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        held: Hold = await edge.admit(wanted(9))
        edge.settle(held, None)
        await spend(lender, edge, wanted(7, key_id=KEY), 7)
    assert lender.bank.pot("").available_pico == 100 * FLOOR_PICO - 7 - 9
    assert lender.bank.pot(KEY).available_pico == 10**15 - 7


async def test_a_first_request_that_meets_a_report_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_S", 0.0)
    async with lending(100 * FLOOR_PICO) as lender:
        assert await refused(lender.edges[0], wanted(7, strict=True)) is None


async def test_an_answer_that_makes_no_sense_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        with monkeypatch.context() as patch:
            patch.setattr(lender.bank, "answer", lambda *_: None)
            patch.setattr(module, "AWAY_PATIENCE_S", 0.0)
            assert await refused(edge, wanted(7)) is BillingUnavailable
        assert await refused(edge, wanted(7)) is None


class Time:
    """A clock that is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


async def report(lender: Lender, edge: Credit, clock: Time) -> list[Asks]:
    """Ten seconds pass; the calls that the edge makes then."""
    clock.now += module.REPORT_S
    begun = len(lender.calls)
    edge._wake.set()
    for _ in range(20):
        await asyncio.sleep(0)
    return lender.calls[begun:]


async def test_what_is_left_of_a_lease_that_billing_gave_up_is_not_spent(clock: Time) -> None:
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        first = await edge.admit(wanted(FLOOR_PICO // 2))
        edge.settle(first, 7)
        lender.bank.loans.clear()
        clock.now += 3700
        second = await edge.admit(wanted(FLOOR_PICO // 2))
        edge.settle(second, 7)
        assert second.purse.lease_id != first.purse.lease_id


async def test_the_lease_of_a_key_that_is_rarely_used_is_renewed_while_others_are_busy(clock: Time) -> None:
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        await spend(lender, edge, wanted(2, key_id=KEY), 1)
        for _ in range(12):
            await spend(lender, edge, wanted(2), 1)
            await report(lender, edge, clock)
        lease = edge._purses.current[WORKSPACE].limited[KEY]
        assert clock.now < lease.valid_until


async def test_credit_is_given_back_when_billing_gave_up_the_lease_of_a_key(clock: Time) -> None:
    async with lending(10**6 * FLOOR_PICO) as lender:
        (edge,), bank = lender.edges, lender.bank
        await spend(lender, edge, wanted(FLOOR_PICO, key_id=KEY), 7)
        lease_id = edge._purses.current[WORKSPACE].lease_id
        del bank.loans[lease_id, KEY]
        clock.now += 61
        await spend(lender, edge, wanted(FLOOR_PICO, key_id=KEY), 7)
        assert edge._purses.current[WORKSPACE].lease_id != lease_id, "another one begins"
    assert bank.pot("").available_pico == bank.balance_pico


async def test_leases_of_more_keys_than_fit_in_one_call_are_all_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ASKS", 1)
    async with lending(10**6 * FLOOR_PICO) as lender:
        await spend(lender, lender.edges[0], wanted(FLOOR_PICO, key_id=KEY), 7)
        plain, closed = lender.leases, list[Asks]()

        async def once(asks: Asks) -> Answers:
            """The second of the two calls that close it is lost."""
            closed.extend([asks] if any(ask.final for ask in asks.asks) else [])
            if len(closed) == 2:
                closed.append(asks)
                raise BillingUnavailable
            return await plain(asks)

        monkeypatch.setattr(lender, "leases", once)
        monkeypatch.setattr(purses, "IDLE_S", -1.0)
        monkeypatch.setattr(module, "AWAY_S", 0.0)
        monkeypatch.setattr(module, "REPORT_S", 0.02)
        lender.edges[0]._wake.set()
        await until(lambda: all(loan.closed for loan in lender.bank.loans.values()), "both are closed")


async def test_what_waits_in_a_workers_spool_stays_held_for_as_long_as_it_may_come(clock: Time) -> None:
    async with lending(10 * CENT) as lender:
        (edge,) = lender.edges
        hold = await edge.admit(wanted(8 * CENT, strict=True))
        edge.settle(hold, None)
        for _ in range(GRACE // timedelta(seconds=module.REPORT_S)):
            await report(lender, edge, clock)
        assert await refused(edge, wanted(5 * CENT, strict=True)) is InsufficientCredit


async def test_costs_that_never_come_do_not_keep_others_from_being_asked_about(
    clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purses, "MAX_PENDING", 2)
    async with lending(10 * CENT) as lender:
        (edge,) = lender.edges
        holds = [await edge.admit(wanted(1)) for _ in range(5)]
        for hold in holds:
            edge.settle(hold, None)
        calls = [call for _ in range(3) for call in await report(lender, edge, clock)]
        assert {name for call in calls for name in call.pending} == {hold.request_id for hold in holds}


def of_key(amount_pico: int, *, limited: bool) -> Wanted:
    return Wanted(new_id(), WORKSPACE, KEY, limited, amount_pico, strict=True)


async def spent(lender: Lender, edge: Credit, *, limited: bool) -> int:
    """How many cents a key can spend, a request at a time, until it is refused."""
    begun = lender.bank.spent_pico
    with contextlib.suppress(SpendLimitExceeded):
        while lender.bank.spent_pico < begun + 50 * CENT:
            await spend(lender, edge, of_key(CENT, limited=limited), CENT)
    return (lender.bank.spent_pico - begun) // CENT


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for what running requests hold."""
    monkeypatch.setattr(module, "HELD_PATIENCE_S", 0.0)


@pytest.mark.usefixtures("impatient")
async def test_a_limit_holds_that_is_set_after_its_key_spent_without_one() -> None:
    async with lending(1000 * CENT, 60 * CENT) as lender:
        (edge,) = lender.edges
        assert await spent(lender, edge, limited=False) == 50
        held = await asyncio.gather(
            *(edge.admit(of_key(CENT, limited=True)) for _ in range(20)), return_exceptions=True
        )
        holds = [hold for hold in held if isinstance(hold, Hold)]
        for hold in holds:
            lender.bank.book(hold.purse.lease_id, CENT)
            edge.settle(hold, CENT)
        assert len(holds) == 10
    assert lender.bank.pot("").available_pico == lender.bank.balance_pico


async def test_a_limit_that_is_taken_away_and_set_again_holds_for_what_is_still_under_way() -> None:
    async with lending(1000 * CENT, 60 * CENT) as lender:
        (edge,) = lender.edges
        under_way = [await edge.admit(of_key(CENT, limited=True)) for _ in range(7)]
        assert await spent(lender, edge, limited=False) == 50
        assert await spent(lender, edge, limited=True) == 3
        for hold in under_way:
            lender.bank.book(hold.purse.lease_id, CENT)
            edge.settle(hold, CENT)
    assert lender.bank.spent_pico == 60 * CENT


@pytest.mark.usefixtures("impatient")
async def test_what_a_key_without_a_limit_spent_is_late_and_does_not_widen_its_limit() -> None:
    async with lending(1000 * CENT, 10 * CENT) as lender:
        (edge,) = lender.edges
        late = [await edge.admit(of_key(CENT, limited=False)) for _ in range(3)]
        first = await edge.admit(of_key(6 * CENT, limited=True))
        for hold in late:
            lender.bank.book(hold.purse.lease_id, CENT)
            edge.settle(hold, CENT)
        assert await spent(lender, edge, limited=True) == 1
        edge.settle(first, 0)


async def test_requests_that_know_of_a_new_limit_and_those_that_do_not_are_all_served() -> None:
    async with lending(1000 * CENT, 500 * CENT) as lender:
        (edge,) = lender.edges
        holds = await asyncio.gather(*(edge.admit(of_key(CENT, limited=number % 2 > 0)) for number in range(40)))
        assert not any(lender.bank.loans[hold.purse.lease_id, ""].closed for hold in holds)
        for hold in holds:
            edge.settle(hold, 0)
    assert lender.bank.pot("").available_pico == 1000 * CENT


async def test_nothing_is_spent_of_a_lease_that_is_being_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left while the call is under way that one request waits for, and nothing else is held of it."""
    async with lending(1000 * CENT) as lender:
        (edge,), plain, gate = lender.edges, lender.leases, asyncio.Event()

        async def slowly(asks: Asks) -> Answers:
            await gate.wait()
            return await plain(asks)

        monkeypatch.setattr(lender, "leases", slowly)
        tasks = list[asyncio.Task[Hold]]()
        for limited in (False, True):
            tasks.append(asyncio.create_task(edge.admit(of_key(CENT, limited=limited))))
            for _ in range(5):
                await asyncio.sleep(0)
        gate.set()
        holds = await asyncio.gather(*tasks)
        assert not any(lender.bank.loans[hold.purse.lease_id, ""].closed for hold in holds)
        for hold in holds:
            edge.settle(hold, 0)


async def test_what_another_lease_leaves_is_there_for_the_one_that_begins() -> None:
    async with lending(10 * CENT) as lender:
        (edge,) = lender.edges
        edge.settle(await edge.admit(of_key(6 * CENT, limited=False)), 0)
        under_way = await edge.admit(of_key(CENT, limited=False))
        edge.settle(await edge.admit(of_key(9 * CENT, limited=True)), 0)
        edge.settle(under_way, 0)


async def test_a_lease_is_replaced_before_it_knows_too_many_keys(clock: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purses, "MOST_KEYS", 1)
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        await spend(lender, edge, wanted(7), 7)
        first = edge._purses.current[WORKSPACE].lease_id
        await spend(lender, edge, of_key(7, limited=False), 7)
        await report(lender, edge, clock)
        hold = await edge.admit(wanted(7))
        assert hold.purse.lease_id != first
        edge.settle(hold, 0)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """While it is closed, answers are held up that billing has given."""
    gate, plain = asyncio.Event(), Lender.leases
    gate.set()

    async def held_up(lender: Lender, asks: Asks) -> Answers:
        answers = await plain(lender, asks)
        await gate.wait()
        return answers

    monkeypatch.setattr(Lender, "leases", held_up)
    return gate


async def begun(edge: Credit, want: Wanted) -> asyncio.Task[Hold]:
    """A request that waits for billing."""
    task = asyncio.create_task(edge.admit(want))
    for _ in range(8):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def admitted(lender: Lender, edge: Credit, key_id: str | None) -> int:
    """How many small requests are let in, one after another, until one is refused."""
    count = 0
    with contextlib.suppress(InsufficientCredit, SpendLimitExceeded):
        while count < 100:
            await spend(lender, edge, wanted(FLOOR_PICO // 10, key_id=key_id), FLOOR_PICO // 10)
            count += 1
    return count


async def test_nothing_lent_before_a_limit_was_lowered_is_spent_while_other_requests_wait(
    gate: asyncio.Event,
) -> None:
    async with lending(10**6 * FLOOR_PICO, 10**6 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        await spend(lender, edge, wanted(10 * FLOOR_PICO, key_id=KEY), 7)
        gate.clear()
        others = [await begun(edge, wanted(amount * FLOOR_PICO)) for amount in (50, 60)]
        lender.bank.limit_pico = 0
        edge.changed(AccountChanged(workspace_id=WORKSPACE, key_id=KEY))
        gate.set()
        holds = [await other for other in others]
        assert await admitted(lender, edge, KEY) == 0
        assert await admitted(lender, edge, None) == 100, "keys without a limit go on"
        for hold in holds:
            edge.settle(hold, 0)
    assert lender.bank.pot("").available_pico == lender.bank.balance_pico


@pytest.mark.parametrize("key_id", [None, KEY], ids=["credit", "limit"])
async def test_an_answer_that_was_given_before_a_change_lets_nobody_in_after_it(
    key_id: str | None, gate: asyncio.Event
) -> None:
    async with lending(10**6 * FLOOR_PICO, 10**6 * FLOOR_PICO) as lender:
        (edge,), bank = lender.edges, lender.bank
        await spend(lender, edge, wanted(FLOOR_PICO, key_id=key_id), 7)
        gate.clear()
        waiting = await begun(edge, wanted(50 * FLOOR_PICO, key_id=key_id))
        bank.limit_pico, bank.balance_pico = (bank.limit_pico, 0) if key_id is None else (0, bank.balance_pico)
        edge.changed(AccountChanged(workspace_id=WORKSPACE, key_id=key_id))
        gate.set()
        with pytest.raises(InsufficientCredit if key_id is None else SpendLimitExceeded):
            await waiting
        assert await admitted(lender, edge, key_id) == 0
        left = bank.limit_pico - bank.spent_pico if key_id else bank.balance_pico
        await until(lambda: bank.pot(key_id or "").available_pico == left, "it has gone back")


async def test_what_a_request_held_too_much_goes_back_when_the_account_has_changed_since() -> None:
    async with lending(10 * FLOOR_PICO, 10 * FLOOR_PICO) as lender:
        (edge,), bank = lender.edges, lender.bank
        long, short = [await edge.admit(wanted(4 * FLOOR_PICO, key_id=KEY)) for _ in range(2)]
        bank.limit_pico = FLOOR_PICO
        edge.changed(AccountChanged(workspace_id=WORKSPACE, key_id=KEY))
        edge.settle(short, 0)
        assert await admitted(lender, edge, KEY) == 0
        await until(lambda: bank.pot(KEY).available_pico == -3 * FLOOR_PICO, "all but the hold that is left is back")
        edge.settle(long, 0)
        await until(lambda: bank.pot(KEY).available_pico == FLOOR_PICO, "and then that")
        assert await admitted(lender, edge, KEY) == 10, "the new limit is there, whole"


async def test_a_request_that_waits_over_a_change_is_not_refused_what_the_old_lease_gives_back(
    gate: asyncio.Event,
) -> None:
    async with lending(10 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        await spend(lender, edge, wanted(FLOOR_PICO, strict=True), 0)
        gate.clear()
        waiting = await begun(edge, wanted(10 * FLOOR_PICO, strict=True))
        edge.changed(AccountChanged(workspace_id=WORKSPACE))
        gate.set()
        edge.settle(await waiting, 0)


async def test_what_was_used_of_a_lease_is_told_also_after_a_change() -> None:
    async with lending(10 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        hold = await edge.admit(wanted(FLOOR_PICO))
        edge.changed(AccountChanged(workspace_id=WORKSPACE))
        edge.settle(hold, 7)
        loans = lender.bank.loans
        await until(lambda: loans[hold.purse.lease_id, ""].closed, "it is closed")
        assert loans[hold.purse.lease_id, ""].used_pico == 7


async def test_changes_that_were_missed_are_made_up_for_when_they_can_be_heard_again() -> None:
    async with lending(10 * FLOOR_PICO, 10 * FLOOR_PICO) as lender:
        (edge,) = lender.edges
        await spend(lender, edge, wanted(FLOOR_PICO, key_id=KEY), 7)
        lender.bank.limit_pico = 0
        edge.began()
        assert await admitted(lender, edge, KEY) == 0


async def test_what_an_edge_has_in_hand_is_what_it_was_lent_less_what_is_spent_and_held() -> None:
    async with lending(100 * FLOOR_PICO) as lender:
        (edge,), bank = lender.edges, lender.bank
        assert edge.left_pico(WORKSPACE) == 0
        await spend(lender, edge, wanted(FLOOR_PICO), 7)
        assert bank.balance_pico - bank.pot("").available_pico == edge.left_pico(WORKSPACE) > 0, "nothing is held"
        hold = await edge.admit(wanted(FLOOR_PICO))
        assert bank.balance_pico - bank.pot("").available_pico - edge.left_pico(WORKSPACE) == FLOOR_PICO
        edge.settle(hold, 0)
