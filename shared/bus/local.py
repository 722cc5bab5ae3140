"""The embedded bus: events go straight to the ledger's writer, and `publish` returns when they are committed.

So the local stack needs neither a broker nor a spool to keep the promise that usage is durable before an answer ends.
"""

import asyncio
from collections.abc import Sequence

from shared.bus import BusError, Handler, Message, Watcher
from shared.bus.packing import Packer
from shared.changes import AccountChanged
from shared.events import Encoded, batch


class LocalBus:
    """One process's bus. It has one shard, because one process has one writer."""

    def __init__(self) -> None:
        self._handler: Handler | None = None
        self._watchers = list[Watcher]()
        self._packer = Packer(self._commit, in_flight=1)

    @property
    def connected(self) -> bool:
        """Whether a consumer is there."""
        return self._handler is not None

    async def publish(self, event: Encoded) -> None:
        """Return once the consumer committed the event. Raises BusError."""
        await self._packer.put(event.body)

    async def consume(self, shard: int, handler: Handler) -> None:
        """Take all events until cancelled. A second consumer is refused: there is one writer."""
        if self._handler is not None:
            raise BusError(f"shard {shard} has a consumer already")
        self._handler = handler
        try:
            await asyncio.Event().wait()
        finally:
            await self._packer.drain()
            self._handler = None

    async def announce(self, change: AccountChanged) -> None:
        """Tell all who watch now."""
        for watcher in tuple(self._watchers):
            watcher.changed(change)

    async def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of every change, until cancelled."""
        self._watchers.append(watcher)
        watcher.began()
        try:
            await asyncio.Event().wait()
        finally:
            self._watchers.remove(watcher)
            watcher.ended()

    async def close(self) -> None:
        """Wait for what is being committed."""
        await self._packer.drain()

    async def _commit(self, events: Sequence[bytes]) -> None:
        if self._handler is None:
            raise BusError("nothing consumes the local bus")
        try:
            await self._handler([Message(batch(events))])
        except Exception as error:
            raise BusError(f"the ledger refused a batch: {error}") from error
