"""Lets requests in for what this edge was lent, and keeps that filled: without a call, as long as a lease is good.

One task talks to billing, one call at a time: what comes up meanwhile goes with the next call. A request that is not
covered waits for one. Where other edges hold what it needs, billing asks them to give back, and it tries for a second.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic

import structlog

from services.edge.billing import Billing
from services.edge.leases import Hold, Purse, Wanted
from services.edge.purses import Pending, Purses
from shared.changes import AccountChanged
from shared.errors import NEVER, BillingUnavailable, InsufficientCredit, SpendLimitExceeded
from shared.ids import new_id
from shared.leases import MAX_ASKS, TTL_S, Ask, Asks

log = structlog.get_logger()

REPORT_S = 10.0  # how often billing hears how far each lease is
PATIENCE_S = 1.0  # how long a request waits for what other edges have left over
HELD_PATIENCE_S = 5.0  # for what running requests hold: most cost far less, above all those without max_tokens
AWAY_PATIENCE_S = 5.0  # for billing, which restarts in two or three; no client waits much longer to be refused
RETRY_S = (0.02, 0.2)  # the first and the longest pause meanwhile: about what a recall takes over the broker
AWAY_S = 0.5  # between calls while billing is away and nobody waits


@dataclass(eq=False, slots=True)
class _Waiter:
    """A request that is not covered."""

    purse: Purse
    key_id: str | None
    amount_pico: int
    less_will_do: bool
    answered: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Credit:
    """What this edge was lent, and the requests that it lets in for it."""

    def __init__(self, billing: Billing) -> None:
        self._billing, self._edge = billing, new_id()
        self._purses = Purses()
        self._waiters: list[_Waiter] = []
        self._pending = Pending()
        self._due: set[str] = set()
        self._wake = asyncio.Event()
        self._reported_at = monotonic()
        self._task = asyncio.create_task(self._run())

    async def admit(self, wanted: Wanted) -> Hold:
        """A hold on what the request may cost; does not wait where a lease covers it. Raises InsufficientCredit,
        SpendLimitExceeded, BillingUnavailable.
        """
        purse = self._purses.of(wanted, monotonic())
        hold = self._taken(purse, wanted)
        if hold is None:
            return await self._waited(wanted)
        if any(lease.is_low for lease in purse.leases(hold.key_id)):
            self._ask_soon(purse)
        return hold

    def settle(self, hold: Hold, cost_pico: int | None) -> None:
        """The request is over. None: only its worker knows what it cost, and billing will."""
        if cost_pico is None:
            self._pending.add(hold, monotonic())
        else:
            self._settle(hold, cost_pico)
        hold.purse.running -= 1

    def _settle(self, hold: Hold, cost_pico: int) -> None:
        purse = hold.purse
        hold.settle(cost_pico)
        if purse.outdated:
            self._return(purse)
        elif purse.is_idle and any(lease.is_scarce for lease in purse.leases(hold.key_id)):
            self._give_back(purse)

    def left_pico(self, workspace_id: str) -> int:
        """What this edge was lent of a workspace's credit and has neither spent nor held."""
        return max(0, purse.credit.left_pico) if (purse := self._purses.current.get(workspace_id)) else 0

    def began(self) -> None:
        """Changes are announced from now on; some may have been missed."""
        self._purses.outdate(*self._purses.current)
        self._wake.set()

    def changed(self, change: AccountChanged) -> None:
        """Begin anew: what was lent before may be more than is now allowed. After a recall, give back what is left."""
        if change.reason == "account":
            self._purses.outdate(change.workspace_id)
            self._wake.set()
        elif purse := self._purses.current.get(change.workspace_id):
            self._give_back(purse)

    async def close(self) -> None:
        """Give everything back."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for workspace_id in tuple(self._purses.current):
            self._purses.leave(workspace_id)
        self._reported_at = -REPORT_S
        try:
            await self._round()
        except BillingUnavailable:
            log.warning("leases_not_given_back", count=len(self._purses.left))

    async def _waited(self, wanted: Wanted) -> Hold:
        begun, pause, less = monotonic(), RETRY_S[0], False
        while True:
            purse = self._purses.of(wanted, monotonic())
            away: BillingUnavailable | None = None
            try:
                await self._answered(_Waiter(purse, wanted.limited_key_id, wanted.amount_pico, less))
            except BillingUnavailable as error:
                away = error
            if hold := self._taken(purse, wanted, last=less or (away is not None and not wanted.strict)):
                return hold
            if away is not None:
                if monotonic() - begun >= AWAY_PATIENCE_S:
                    raise away
                await asyncio.sleep(RETRY_S[1])  # until it is back, or others' requests cost less than they held
                continue
            short = purse.short(wanted.limited_key_id, 1 if less else wanted.amount_pico)
            if purse.outdated or (short is None and not purse.is_closed):
                continue  # in the purse that was begun since; or another request was first, and a next call is ours
            if (short is None or short.is_recalled) and monotonic() - begun < PATIENCE_S:
                self._give_back(purse, even_wanted=True)  # two edges that both kept a part would both go without
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_S[1])
            elif not less and not wanted.strict:
                less = True
            elif purse.may_have(short, 1 if less else wanted.amount_pico) and monotonic() - begun < HELD_PATIENCE_S:
                await asyncio.sleep(RETRY_S[1])
            else:
                raise InsufficientCredit() if short in {None, purse.credit} else SpendLimitExceeded(headers=NEVER)

    def _taken(self, purse: Purse, wanted: Wanted, *, last: bool = False) -> Hold | None:
        take = purse.take_last if last else purse.take
        return take(wanted.request_id, wanted.limited_key_id, wanted.amount_pico, monotonic())

    async def _answered(self, waiter: _Waiter) -> None:
        """Return once billing answered a call that named this request. Raises BillingUnavailable."""
        purse = waiter.purse
        purse.used_at = monotonic()
        purse.waiting += 1  # until it runs again: an answer comes a moment before that
        self._waiters.append(waiter)
        self._wake.set()
        try:
            await waiter.answered
        finally:
            purse.waiting -= 1

    def _return(self, purse: Purse) -> None:
        """What an outdated purse has left is for the one that was begun since, and for others."""
        purse.give_back()
        self._wake.set()

    def _ask_soon(self, purse: Purse) -> None:
        self._due.add(purse.workspace_id)
        self._wake.set()

    def _give_back(self, purse: Purse, *, even_wanted: bool = False) -> None:
        if even_wanted or not any(waiter.purse is purse for waiter in self._waiters):
            purse.give_back()
            self._ask_soon(purse)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._reported_at + REPORT_S - monotonic())):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._round()
            except BillingUnavailable as error:
                log.warning("leases_not_renewed", reason=error.message)
                await asyncio.sleep(0 if self._waiters else AWAY_S)
            except Exception:
                log.exception("leases_not_renewed")
                await asyncio.sleep(AWAY_S)

    async def _round(self) -> None:
        """One call, or as many as it takes to tell everything. Raises BillingUnavailable, also to those who wait."""
        waiters, self._waiters = self._waiters, []
        asks = list(self._asks(waiters))
        pending = self._pending.next()
        try:
            for begin in range(0, len(asks) or bool(pending), MAX_ASKS):
                await self._call(asks[begin : begin + MAX_ASKS], pending if begin == 0 else [])
            self._purses.forget({purse for purse, ask in asks if ask.final})  # in however many calls
        except Exception as error:
            away = error if isinstance(error, BillingUnavailable) else BillingUnavailable()
            for waiter in waiters:
                if not waiter.answered.done():
                    waiter.answered.set_exception(away)
            raise
        for waiter in waiters:
            if not waiter.answered.done():
                waiter.answered.set_result(None)

    def _asks(self, waiters: list[_Waiter]) -> Iterator[tuple[Purse, Ask]]:
        """What there is to tell and to ask for: of those that are due, and every ten seconds of all."""
        now, due = monotonic(), self._due
        self._due = set()
        reporting = now - self._reported_at >= REPORT_S
        if reporting:
            self._reported_at = now
            self._tick(now)
        current = self._purses.current
        waiting = {waiter.purse.lease_id: waiter.purse for waiter in waiters}
        told = {current[name].lease_id: current[name] for name in due & current.keys()}
        everyone = {purse.lease_id: purse for purse in current.values()} if reporting else {}
        left = {purse.lease_id: purse for purse in self._purses.left}  # first: what they give back may be needed
        for purse in (left | waiting | told | everyone).values():
            ours = [waiter for waiter in waiters if waiter.purse is purse and not purse.outdated]
            yield from self._asks_of(purse, ours, now + TTL_S / 2 if reporting else 0.0)

    def _asks_of(self, purse: Purse, waiters: list[_Waiter], renew_before: float) -> Iterator[tuple[Purse, Ask]]:
        final = purse.is_idle and purse in self._purses.left
        for key_id, lease in purse.all.items():
            ours = [waiter for waiter in waiters if key_id in {None, waiter.key_id}]
            if ours or final or lease.valid_until < renew_before or lease.has_news or lease.is_low:
                amounts = [waiter.amount_pico for waiter in ours] or [0]
                less = any(waiter.less_will_do for waiter in ours)
                yield purse, purse.ask(key_id, sum(amounts), min(amounts), less_will_do=less, final=final)

    async def _call(self, asked: list[tuple[Purse, Ask]], pending: list[str]) -> None:
        asked_at = monotonic()
        answers = await self._billing.leases(Asks(edge=self._edge, asks=[ask for _, ask in asked], pending=pending))
        for (purse, ask), lent in zip(asked, answers.lent, strict=True):
            purse.all[ask.key_id].answered(ask, lent, asked_at)
            if lent.closed and self._purses.current.get(purse.workspace_id) is purse:
                self._purses.leave(purse.workspace_id)  # billing may still have other leases of it
            if purse.outdated and purse.all[ask.key_id].left_pico > 0:  # lent before the change
                self._return(purse)
        for request_id, cost_pico in answers.settled.items():
            self._settle(self._pending.pop(request_id), cost_pico)

    def _tick(self, now: float) -> None:
        """What is done every ten seconds."""
        self._purses.tick(now)
        for hold in self._pending.expired(now):
            self._settle(hold, 0)
