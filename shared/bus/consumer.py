"""One shard's consumer on one connection: batches to the handler, an acknowledgement after each, a watch on both.

RabbitMQ was seen with quorum queues whose consumer never received again, on a connection that was in good health. So
the consumer looks at its queue from time to time: messages that wait while none arrive mean that it must come anew.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from prometheus_client import Gauge

from shared.bus import Handler, Message
from shared.bus.topology import declare
from shared.events import PARKED_QUEUE, queue_of

log = structlog.get_logger()

BATCH_MESSAGES = 64  # messages in one call of the handler, so in one ledger transaction: some 3,500 events at most
IN_HAND = 2  # calls of the handler under way: one is decoded while another is written
PREFETCH = (IN_HAND + 1) * BATCH_MESSAGES  # and the next one is here already
SETUP_TIMEOUT_S = 10.0  # a broker that has just started was seen never to answer a request to consume
LOOK_S = 10.0  # between looks at the queues; longer than any delivery takes, and a rare, cheap question
RETRY_S = (0.1, 5.0)  # the first and the longest pause between attempts at a batch that the handler refused

MESSAGES = Gauge("opentoken_queue_messages", "Messages that wait in a queue, as its consumer saw it last.", ["queue"])


class Consumer:
    """Takes a shard's messages from one connection, until that is no longer fit."""

    def __init__(self, shard: int, handler: Handler) -> None:
        self._queue, self._handler = queue_of(shard), handler
        self._arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        self._arrivals = 0
        self._under_way = deque[asyncio.Task[None]]()

    async def run(self, connection: AbstractConnection, shards: int) -> None:
        """Return, or raise, once the channel has closed or brings nothing any more. Raises TopologyError, too."""
        async with asyncio.timeout(SETUP_TIMEOUT_S):
            await declare(connection, shards)
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=PREFETCH)
            queue = await channel.get_queue(self._queue, ensure=False)
            await queue.consume(self._arrive)
        unfit = asyncio.create_task(self._until_unfit(channel))
        try:
            while not unfit.done() and (messages := await self._next(unfit)):
                before = self._under_way[-1] if self._under_way else None
                self._under_way.append(asyncio.create_task(self._take(messages, before)))
                if len(self._under_way) == IN_HAND:
                    await asyncio.wait((self._under_way[0], unfit), return_when=asyncio.FIRST_COMPLETED)
                while self._under_way and self._under_way[0].done():
                    self._under_way.popleft().result()
            await unfit
        finally:
            tasks = (unfit, *self._under_way)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, messages: Sequence[AbstractIncomingMessage], before: asyncio.Task[None] | None) -> None:
        """Handle a batch; acknowledge it after the one before, because that is for all that came earlier, too."""
        await _until_handled(self._handler, messages)
        if before is not None:
            await before
        await messages[-1].ack(multiple=True)

    @property
    def _idle(self) -> bool:
        return not self._under_way or self._under_way[-1].done()

    async def _arrive(self, message: AbstractIncomingMessage) -> None:
        self._arrivals += 1
        self._arrived.put_nowait(message)

    async def _next(self, unfit: asyncio.Task[None]) -> list[AbstractIncomingMessage]:
        """What has arrived, one message at least; none once there is nothing more to wait for."""
        getting = asyncio.ensure_future(self._arrived.get())
        try:
            await asyncio.wait((getting, unfit), return_when=asyncio.FIRST_COMPLETED)
            messages = [getting.result()] if getting.done() else []
        finally:
            getting.cancel()
        while messages and len(messages) < BATCH_MESSAGES and not self._arrived.empty():
            messages.append(self._arrived.get_nowait())
        return messages

    async def _until_unfit(self, channel: AbstractChannel) -> None:
        """Return when the channel has closed, or when messages wait at the broker, no fewer than at the last look,
        and none came meanwhile though nothing is being handled. A consumer that stands by meets that, too: it comes
        anew for nothing, and takes nothing from the active one.
        """
        closed = asyncio.ensure_future(channel.closed())
        waiting = arrivals = 0
        try:
            while not (await asyncio.wait((closed,), timeout=LOOK_S))[0]:
                before, arrivals_before = waiting, arrivals
                async with asyncio.timeout(SETUP_TIMEOUT_S):
                    waiting = await _look(channel, self._queue)
                    await _look(channel, PARKED_QUEUE)
                arrivals = self._arrivals
                if self._idle and arrivals == arrivals_before and waiting >= before > 0:
                    log.warning("consumer_stalled", queue=self._queue, waiting=waiting, looked_s=LOOK_S)
                    return
        finally:
            closed.cancel()


async def _look(channel: AbstractChannel, queue: str) -> int:
    """How many messages wait in a queue."""
    found = await channel.declare_queue(queue, passive=True)
    waiting = found.declaration_result.message_count or 0
    MESSAGES.labels(queue).set(waiting)
    return waiting


async def _until_handled(handler: Handler, messages: Sequence[AbstractIncomingMessage]) -> None:
    """Try the same batch until it is committed; `nack` is never a retry, because it counts towards the limit."""
    batch = [Message(message.body, bool(message.redelivered)) for message in messages]
    pause = RETRY_S[0]
    while True:
        try:
            return await handler(batch)
        except Exception:
            log.exception("batch_refused", messages=len(batch), retry_s=pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, RETRY_S[1])
