"""Packing: while one batch is on its way, events gather; then they leave together. No linger is ever added.

The same mechanism serves the broker (several batches in flight), the embedded ledger and the spool (one): under
light load a batch holds one event and leaves at once, under heavy load the batches grow by themselves. A further batch
leaves before the first one is done only when it is worth a message of its own (Nagle's rule, RFC 896).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from shared.events import MAX_BATCH_BYTES, MAX_BATCH_EVENTS

WORTHWHILE = 20  # events: a message of 20 costs the broker little more than a message of one

Send = Callable[[Sequence[bytes]], Awaitable[None]]


class Packer:
    """Gathers items and sends them in batches; `put` returns when the batch that holds its item was sent."""

    def __init__(self, send: Send, *, in_flight: int) -> None:
        self._send = send
        self._waiting: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self._most = self._free = in_flight
        self._tasks: set[asyncio.Task[None]] = set()

    async def put(self, item: bytes) -> None:
        """Send `item`; raises what the sending of its batch raised. A cancelled `put` may still be sent."""
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, sent))
        self._start()
        await sent

    async def drain(self) -> None:
        """Wait until nothing is waiting or in flight."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self) -> None:
        while self._waiting and (self._free == self._most or (self._free and len(self._waiting) >= WORTHWHILE)):
            self._free -= 1
            task = asyncio.create_task(self._send_one(self._take()))
            self._tasks.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free += 1
        self._start()

    def _take(self) -> list[tuple[bytes, asyncio.Future[None]]]:
        taken = [self._waiting.popleft()]
        size = len(taken[0][0])
        while self._waiting and len(taken) < MAX_BATCH_EVENTS:
            size += len(self._waiting[0][0])
            if size > MAX_BATCH_BYTES:
                break
            taken.append(self._waiting.popleft())
        return taken

    async def _send_one(self, taken: list[tuple[bytes, asyncio.Future[None]]]) -> None:
        wanted = [(item, sent) for item, sent in taken if not sent.done()]  # a caller that gave up went elsewhere
        if not wanted:
            return
        try:
            await self._send([item for item, _ in wanted])
        except Exception as error:  # noqa: BLE001 - each waiting caller gets it
            for _, sent in wanted:
                if not sent.done():
                    sent.set_exception(error)
        else:
            for _, sent in wanted:
                if not sent.done():
                    sent.set_result(None)
