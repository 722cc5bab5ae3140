"""RabbitMQ: a topic exchange, one quorum queue per shard, publisher confirms, one consumer at a time.

A link connects, declares what it needs, works until the connection breaks, and starts over; there is no hidden
state to restore. Facts about aio-pika 10 this rests on: publishing without a queue looks like success unless
`on_return_raises` is set; only `Basic.Ack` is a confirmation; its own timeout does not cover waiting for the channel;
where a connection is closed that did not answer, whoever still waits on it gets a CancelledError that nobody sent.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from time import monotonic

import aio_pika
import structlog
from aio_pika.abc import AbstractConnection, AbstractExchange
from aio_pika.connection import Connection, make_url
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, DeliveryError
from pamqp.commands import Basic

from shared.bus import BusError, Handler, Watcher, accounts
from shared.bus.consumer import Consumer
from shared.bus.packing import Packer
from shared.bus.topology import ACCOUNTS_EXCHANGE, TopologyError, declare
from shared.changes import AccountChanged
from shared.events import CONTENT_TYPE, USAGE_EXCHANGE, Encoded, batch, routing_key, shard_of

log = structlog.get_logger()

IN_FLIGHT = 64  # unconfirmed messages: enough to keep the broker's disk busy, few enough to republish at once
CONFIRM_TIMEOUT_S = 10.0  # a broker silent for longer is taken for lost
CONNECT_TIMEOUT_S = 5.0
SETUP_TIMEOUT_S = 10.0  # a broker that has just started was seen never to answer a declaration
HEARTBEAT_S = 10
RECONNECT_S = (0.1, 5.0)  # the first and the longest pause between attempts; a link that lasts as long starts over

Work = Callable[[AbstractConnection], Awaitable[None]]


class RabbitBus:
    """One connection for publishing, kept up in the background, and one for each consumer."""

    def __init__(self, url: str, *, shards: int, name: str) -> None:
        self._url, self._shards, self._name = url, shards, name
        self._exchange: AbstractExchange | None = None
        self._accounts: AbstractExchange | None = None
        self._blocked: Callable[[], bool] = bool
        self._silent = asyncio.Event()
        self._packers = [Packer(partial(self._send, shard), in_flight=IN_FLIGHT) for shard in range(shards)]
        self._publisher = asyncio.create_task(self._keep("publisher", self._hold_open))

    @property
    def connected(self) -> bool:
        """Whether the publishing channel is open, and the broker takes messages."""
        return self._exchange is not None and not self._blocked()

    async def publish(self, event: Encoded) -> None:
        """Return once the broker confirmed the event. Raises BusError, at once where it is away or takes nothing."""
        await self._packers[shard_of(event.workspace_id, self._shards)].put(event.body)

    async def consume(self, shard: int, handler: Handler) -> None:
        """Hand the shard's messages to `handler` until cancelled, over every reconnection."""

        async def take(connection: AbstractConnection) -> None:
            await Consumer(shard, handler).run(connection, self._shards)

        await self._keep("consumer", take)

    async def announce(self, change: AccountChanged) -> None:
        """Return once the broker confirmed the change: all queues that are bound have it. Raises BusError."""
        if self._accounts is None or self._blocked():
            raise BusError("the broker is away")
        try:
            with _closing_told():
                async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                    await accounts.announce(self._accounts, change)
        except (TimeoutError, DeliveryError, *CONNECTION_EXCEPTIONS) as error:
            raise BusError(f"not confirmed: {error or type(error).__name__}") from error

    async def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of every change until cancelled, over every reconnection."""

        async def take(connection: AbstractConnection) -> None:
            async with asyncio.timeout(SETUP_TIMEOUT_S):
                await declare(connection, self._shards)
                channel = await connection.channel()
                await accounts.listen(channel, watcher)
            watcher.began()
            try:
                await channel.closed()
            finally:
                watcher.ended()

        await self._keep("watcher", take)

    async def close(self) -> None:
        """Wait for the confirmations that can still come, then disconnect."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                for packer in self._packers:
                    await packer.drain()
        self._publisher.cancel()
        await asyncio.gather(self._publisher, return_exceptions=True)

    async def _keep(self, role: str, work: Work) -> None:
        """Connect, work until the connection breaks, and again, until cancelled."""
        pause = RECONNECT_S[0]
        while True:
            started = monotonic()
            try:
                async with connected(self._url, f"{self._name} {role}") as connection:
                    log.info("broker_connected", role=role)
                    await work(connection)
                log.warning("broker_lost", role=role, reason="the channel ended", retry_s=pause)
            except TopologyError as error:
                log.error("broker_topology_differs", role=role, reason=str(error), retry_s=pause)
            except (TimeoutError, *CONNECTION_EXCEPTIONS) as error:
                log.warning("broker_lost", role=role, reason=str(error) or type(error).__name__, retry_s=pause)
            if monotonic() - started > RECONNECT_S[1]:
                pause = RECONNECT_S[0]
            await asyncio.sleep(pause)
            pause = min(2 * pause, RECONNECT_S[1])

    async def _hold_open(self, connection: AbstractConnection) -> None:
        async with asyncio.timeout(SETUP_TIMEOUT_S):
            await declare(connection, self._shards)
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            exchange = await channel.get_exchange(USAGE_EXCHANGE, ensure=False)
            changes = await channel.get_exchange(ACCOUNTS_EXCHANGE, ensure=False)
        self._silent.clear()
        ends = [asyncio.ensure_future(channel.closed()), asyncio.create_task(self._silent.wait())]
        try:
            self._exchange, self._accounts, self._blocked = exchange, changes, partial(_blocked, connection)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._exchange, self._accounts, self._blocked = None, None, bool
            for end in ends:
                end.cancel()

    async def _send(self, shard: int, events: Sequence[bytes]) -> None:
        if self._exchange is None:
            raise BusError("the broker is away")
        if self._blocked():  # a low disk, say: it would take nothing and answer nothing
            raise BusError("the broker takes no messages")
        message = aio_pika.Message(
            batch(events), content_type=CONTENT_TYPE, delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )
        try:
            with _closing_told():
                async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                    confirmation = await self._exchange.publish(message, routing_key(shard), mandatory=True)
        except TimeoutError as error:
            self._silent.set()  # its heartbeats would be missed much later
            raise BusError("not confirmed: the broker is silent") from error
        except CONNECTION_EXCEPTIONS as error:
            raise BusError(f"not confirmed: {error}") from error
        if not isinstance(confirmation, Basic.Ack):
            raise BusError(f"the broker answered {confirmation!r}")


async def check(url: str, *, shards: int, name: str) -> None:
    """Declare the topology once. Raises TopologyError; a broker that is away is left to those who go on trying."""
    with contextlib.suppress(TimeoutError, *CONNECTION_EXCEPTIONS):
        async with connected(url, f"{name} check") as connection, asyncio.timeout(SETUP_TIMEOUT_S):
            await declare(connection, shards)


@contextlib.asynccontextmanager
async def connected(url: str, name: str) -> AsyncIterator[AbstractConnection]:
    """A connection for the length of the block; `name` shows up at the broker."""
    address = make_url(url, heartbeat=HEARTBEAT_S)
    # Not aio_pika.connect: what that could not connect it leaves unclosed.
    with _closing_told():
        async with Connection(address, client_properties={"connection_name": name}) as connection:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await connection.connect()
            yield connection


@contextlib.contextmanager
def _closing_told() -> Iterator[None]:
    """Raise ConnectionAbortedError where the library cancels what waits on a connection that it closes. To let that
    pass for the task's own cancellation would end the task, or leave those who wait for it without an answer.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionAbortedError("the connection was closed") from error


def _blocked(connection: AbstractConnection) -> bool:
    """Whether the broker said that it takes nothing for now. The library tells only by letting us wait for the end."""
    assert connection.transport is not None
    waiting = connection.transport.connection.ready()
    try:
        waiting.send(None)
    except StopIteration:
        return False
    waiting.close()
    return True
