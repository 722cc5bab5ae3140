"""RabbitMQ: a topic exchange, one quorum queue per shard, publisher confirms, one consumer at a time.

A link connects, declares what it needs, works until the connection breaks, and starts over; there is no hidden
state to restore. Facts about aio-pika 10 this rests on: publishing without a queue looks like success unless
`on_return_raises` is set; only `Basic.Ack` is a confirmation; its own timeout does not cover waiting for the channel.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage
from aio_pika.connection import Connection, make_url
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelPreconditionFailed
from pamqp.commands import Basic
from pamqp.common import FieldValue

from shared.bus import BusError, Handler, Message
from shared.bus.packing import Packer
from shared.events import CONTENT_TYPE, PARKED_QUEUE, USAGE_EXCHANGE, Encoded, batch, queue_of, routing_key, shard_of

log = structlog.get_logger()

IN_FLIGHT = 64  # unconfirmed messages: enough to keep the broker's disk busy, few enough to republish at once
BATCH_MESSAGES = 32  # messages in one call of the handler, so in one ledger transaction
PREFETCH = 2 * BATCH_MESSAGES  # one batch at work, the next one here already
CONFIRM_TIMEOUT_S = 10.0  # a broker silent for longer is taken for lost
CONNECT_TIMEOUT_S = 5.0
SETUP_TIMEOUT_S = 10.0  # a broker that has just started was seen never to answer a request to consume
HEARTBEAT_S = 10
RECONNECT_S = (0.1, 5.0)  # the first and the longest pause between attempts
RETRY_S = (0.1, 5.0)  # likewise between attempts at a batch that the handler refused
DELIVERY_LIMIT = 20  # lost channels count too: a low limit would park innocent messages after a few crashes

QUEUE_ARGUMENTS: dict[str, FieldValue] = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": PARKED_QUEUE,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",  # at-least-once dead-lettering demands it
}


class RabbitBus:
    """One connection for publishing, kept up in the background, and one for each consumer."""

    def __init__(self, url: str, *, shards: int, name: str) -> None:
        self._address, self._shards, self._name = make_url(url, heartbeat=HEARTBEAT_S), shards, name
        self._exchange: AbstractExchange | None = None
        self._packers = [Packer(partial(self._send, shard), in_flight=IN_FLIGHT) for shard in range(shards)]
        self._publisher = asyncio.create_task(self._keep("publisher", self._hold_open))

    @property
    def connected(self) -> bool:
        """Whether the publishing channel is open."""
        return self._exchange is not None

    async def publish(self, event: Encoded) -> None:
        """Return once the broker confirmed the event. Raises BusError, at once where it is away."""
        await self._packers[shard_of(event.workspace_id, self._shards)].put(event.body)

    async def consume(self, shard: int, handler: Handler) -> None:
        """Hand the shard's messages to `handler` until cancelled, over every reconnection."""
        await self._keep("consumer", partial(self._take, shard, handler))

    async def close(self) -> None:
        """Wait for the confirmations that can still come, then disconnect."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                for packer in self._packers:
                    await packer.drain()
        self._publisher.cancel()
        await asyncio.gather(self._publisher, return_exceptions=True)

    async def _keep(self, role: str, work: Callable[[AbstractConnection], Awaitable[None]]) -> None:
        """Connect, work until the connection breaks, and again, until cancelled."""
        pause, name = RECONNECT_S[0], f"{self._name} {role}"
        while True:
            try:
                # Not aio_pika.connect: what that could not connect it leaves unclosed.
                async with Connection(self._address, client_properties={"connection_name": name}) as connection:
                    async with asyncio.timeout(CONNECT_TIMEOUT_S):
                        await connection.connect()
                    log.info("broker_connected", role=role)
                    pause = RECONNECT_S[0]
                    await work(connection)
            except ChannelPreconditionFailed as error:
                log.error("broker_topology_differs", role=role, reason=str(error), retry_s=pause)
            except (TimeoutError, *CONNECTION_EXCEPTIONS) as error:
                log.warning("broker_lost", role=role, reason=str(error) or type(error).__name__, retry_s=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, RECONNECT_S[1])

    async def _hold_open(self, connection: AbstractConnection) -> None:
        async with asyncio.timeout(SETUP_TIMEOUT_S):
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            exchange = await _declare(channel, self._shards)
        try:
            self._exchange = exchange
            await channel.closed()
        finally:
            self._exchange = None

    async def _send(self, shard: int, events: Sequence[bytes]) -> None:
        if self._exchange is None:
            raise BusError("the broker is away")
        message = aio_pika.Message(
            batch(events), content_type=CONTENT_TYPE, delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                confirmation = await self._exchange.publish(message, routing_key(shard), mandatory=True)
        except (TimeoutError, *CONNECTION_EXCEPTIONS) as error:
            raise BusError(f"not confirmed: {error or type(error).__name__}") from error
        if not isinstance(confirmation, Basic.Ack):
            raise BusError(f"the broker answered {confirmation!r}")

    async def _take(self, shard: int, handler: Handler, connection: AbstractConnection) -> None:
        arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        async with asyncio.timeout(SETUP_TIMEOUT_S):
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=PREFETCH)
            await _declare(channel, self._shards)
            queue = await channel.get_queue(queue_of(shard), ensure=False)
            await queue.consume(arrived.put)
        closed = asyncio.ensure_future(channel.closed())
        try:
            while not channel.is_closed and (first := await _next(arrived, closed)) is not None:
                messages = [first]
                while len(messages) < BATCH_MESSAGES and not arrived.empty():
                    messages.append(arrived.get_nowait())
                await _until_handled(handler, messages)
                await messages[-1].ack(multiple=True)
        finally:
            closed.cancel()


async def _next(
    arrived: asyncio.Queue[AbstractIncomingMessage], closed: asyncio.Task[Literal[True]]
) -> AbstractIncomingMessage | None:
    """The next message; None where the channel closes first."""
    getting = asyncio.ensure_future(arrived.get())
    try:
        await asyncio.wait((getting, closed), return_when=asyncio.FIRST_COMPLETED)
        return getting.result() if getting.done() else None
    finally:
        getting.cancel()


async def _until_handled(handler: Handler, messages: Sequence[AbstractIncomingMessage]) -> None:
    """Try the same batch until it is committed; `nack` is never a retry, because it counts towards the limit."""
    batch_ = [Message(message.body, bool(message.redelivered)) for message in messages]
    pause = RETRY_S[0]
    while True:
        try:
            return await handler(batch_)
        except Exception:
            log.exception("batch_refused", messages=len(batch_), retry_s=pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, RETRY_S[1])


async def _declare(channel: AbstractChannel, shards: int) -> AbstractExchange:
    """Declare the whole topology: whoever comes first makes it, so nothing is ever published into the void."""
    exchange = await channel.declare_exchange(USAGE_EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
    await channel.declare_queue(PARKED_QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    for shard in range(shards):
        queue = await channel.declare_queue(queue_of(shard), durable=True, arguments=dict(QUEUE_ARGUMENTS))
        await queue.bind(exchange, routing_key(shard))
    return exchange
