"""The outbox: by which a process makes usage durable, at the broker or, until that takes it, on its own disk."""

import asyncio
import contextlib
import sqlite3

import structlog

from shared.bus import Bus, BusError
from shared.errors import BillingUnavailable
from shared.events import Encoded
from shared.failpoints import passing
from shared.spool import Spool, SpoolFull

log = structlog.get_logger()

BROKER_WAIT_S = 1.0  # an answer is held back this long for the broker's confirmation, then the spool takes over
DRAIN_PAUSE_S = 0.5  # between looks at a spool that is empty or cannot be drained
EMPTY_S = 3.0  # at the end of a process: thousands of events, and a part of what its end may take (`drain.FLUSH_S`)
READY_PERCENT = 80  # of its bytes: fuller than this, a process asks to be left out while it can still take what comes
START_PERCENT = 90  # fuller than this, nothing is started: the rest is for what is under way, and thousands of events


class Outbox:
    """Makes an event durable: confirmed by the bus, else in the spool, whichever comes first after a short wait."""

    def __init__(self, bus: Bus, spool: Spool | None) -> None:
        self._bus, self._spool = bus, spool
        self._drainer = asyncio.create_task(self._drain(spool)) if spool else None

    def check(self) -> None:
        """Refuse to start work whose usage could not be made durable. Raises BillingUnavailable.

        A broker that is connected may still not confirm: then there must be room for all that was started, or an answer
        would be refused at its end whose usage the broker has after all.
        """
        spool = self._spool
        durable = self._bus.connected or (spool is not None and not spool.full)
        if not durable or (spool is not None and (spool.failing or spool.percent_full >= START_PERCENT)):
            raise BillingUnavailable(headers={"Retry-After": "5"})

    def ready(self) -> None:
        """Refuse to be sent more work, while there is still room for what comes. Raises BillingUnavailable."""
        self.check()
        if self._spool is not None and self._spool.percent_full >= READY_PERCENT:
            raise BillingUnavailable(f"the spool is {self._spool.percent_full} % full: is the broker away?")

    async def put(self, event: Encoded) -> None:
        """Return once the event is durable. Raises BillingUnavailable where neither place takes it."""
        try:
            async with asyncio.timeout(BROKER_WAIT_S if self._spool else None):
                return await self._bus.publish(event)
        except (TimeoutError, BusError) as error:
            if self._spool is None:
                log.error("usage_not_durable", reason=str(error))
                raise BillingUnavailable(headers={"Retry-After": "5"}) from error
        try:
            await self._spool.append(event)
        except (SpoolFull, sqlite3.Error) as error:
            log.error("usage_not_durable", reason=str(error))
            raise BillingUnavailable(headers={"Retry-After": "5"}) from error

    async def close(self) -> None:
        """Publish what can still be published; the rest stays in the spool for the next start."""
        if self._spool is not None and self._drainer is not None:
            self._drainer.cancel()
            await asyncio.gather(self._drainer, return_exceptions=True)
            await self._empty(self._spool)
        await self._bus.close()
        if self._spool is not None:
            await self._spool.close()

    async def _empty(self, spool: Spool) -> None:
        """Leave as little as possible: the next process with this disk may come late, or never."""
        with contextlib.suppress(TimeoutError, BusError, sqlite3.Error):
            async with asyncio.timeout(EMPTY_S):
                while await self._republish(spool):
                    pass

    async def _drain(self, spool: Spool) -> None:
        """Republish the oldest first, for ever, whatever the bus and the disk say meanwhile."""
        while True:
            republished = 0
            try:
                republished = await self._republish(spool)
            except (BusError, sqlite3.Error) as error:
                log.warning("spool_not_drained", reason=str(error))
            except Exception:  # whatever it is: who drains must not end before its process
                log.exception("spool_not_drained", retry_s=DRAIN_PAUSE_S)
            if not republished:
                await asyncio.sleep(DRAIN_PAUSE_S)

    async def _republish(self, spool: Spool) -> int:
        """Publish the oldest events, and how many; removal comes after the confirmation: a crash only duplicates."""
        waiting = await spool.oldest() if self._bus.connected else []
        answers = await asyncio.gather(*(self._bus.publish(event) for _, event in waiting), return_exceptions=True)
        published = [place for (place, _), answer in zip(waiting, answers, strict=True) if answer is None]
        if published:
            passing("spool.republished")
            await spool.remove(published)
            log.info("spool_drained", events=len(published), bytes_left=spool.size_bytes)
        for answer in answers:
            if answer is not None:
                raise answer
        return len(published)
