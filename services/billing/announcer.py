"""Telling every edge what changed, after it was committed."""

import asyncio

import structlog

from services.billing.accounts import Changed
from shared.bus import AccountBus, BusError
from shared.changes import AccountChanged

log = structlog.get_logger()

RETRY_S = 0.1
PATIENCE_S = 10.0  # longer than the bus needs to reconnect: an edge that did so first must not be left out


class Announcer:
    """Announces on a bus, over its interruptions."""

    def __init__(self, bus: AccountBus) -> None:
        self._bus = bus
        self._tasks = set[asyncio.Task[None]]()

    async def announce(self, changed: Changed) -> None:
        """Return when the change is on its way to every edge that listens: each has it within milliseconds. While the
        broker is away no edge listens, and each asks by itself; this returns after a while, and goes on trying.
        """
        change = AccountChanged(workspace_id=changed.workspace_id, key_id=changed.key_id)
        await asyncio.wait({self._start(change)}, timeout=PATIENCE_S)

    def recall(self, workspace_id: str) -> None:
        """Ask all edges to give back what they have left of a workspace's credit."""
        self._start(AccountChanged(workspace_id=workspace_id, reason="recall"))

    async def close(self) -> None:
        """Give up what could not be told."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, change: AccountChanged) -> asyncio.Task[None]:
        task = asyncio.create_task(self._until_told(change))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _until_told(self, change: AccountChanged) -> None:
        while True:
            try:
                return await self._bus.announce(change)
            except BusError as error:
                if change.reason == "recall":  # whoever waits for it asks again by itself
                    return None
                log.warning("change_not_announced", workspace_id=change.workspace_id, reason=str(error))
            await asyncio.sleep(RETRY_S)
