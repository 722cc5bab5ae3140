"""What of aio-pika's surface `shared.bus` uses, in front of the simulated broker."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Self

from aio_pika.exceptions import ChannelInvalidStateError

from tests.simulation.broker import Broker, Queue, Stored
from tests.simulation.loop import PROCESS, Loop

LATENCY_S = 0.003
CANCELS = 0.5  # of the publishes on a lost connection end so, as the library has it where the other end is silent
LEARNS_S = 20.0  # two heartbeats: until a silent connection is taken for lost


class Link:
    """A connection, as `aio_pika.connection.Connection`: what a process has of it, and what the broker has."""

    def __init__(self, url: Any, **_: Any) -> None:
        self.loop: Loop = asyncio.get_running_loop()  # type: ignore[assignment]  # the simulation's
        self.broker: Broker = self.loop.services["broker"]
        self.process = PROCESS.get()
        self.open, self.heard = False, False  # as the process sees it; as the broker does
        self.channels: list[Channel] = []
        self._ready = SimpleNamespace(connection=SimpleNamespace(ready=self._until_unblocked))
        self._last_arrival = 0.0

    @property
    def transport(self) -> Any:
        """By which a process can tell that the broker is blocked."""
        return self._ready

    async def connect(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aio-pika's signature
        """Raises ConnectionError while the broker is down."""
        await asyncio.sleep(self.loop.rng.random() * LATENCY_S)
        if not self.broker.up:
            raise ConnectionRefusedError("the broker is down")
        self.open = self.heard = True
        self.broker.links.append(self)
        self.process.at_crash.append(self.broken)

    async def channel(self, **_: Any) -> "Channel":
        """A channel. Raises ConnectionError on a lost connection."""
        await self.turn()
        channel = Channel(self)
        self.channels.append(channel)
        return channel

    async def turn(self) -> None:
        """A question and its answer. Waits for ever on a connection that the broker no longer hears."""
        if not self.open:
            raise ChannelInvalidStateError("closed")
        await asyncio.sleep(self.loop.rng.random() * LATENCY_S)
        if not self.heard:
            await self.loop.create_future()

    async def close(self, *_: Any) -> None:
        """Close from our side."""
        self.end()
        self._unheard()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def broken(self, *, silently: bool = False) -> None:
        """The connection is lost; each side learns it in its own time."""
        rng, learns_s = self.loop.rng, LEARNS_S if silently else LATENCY_S
        self.loop.call_later(rng.random() * learns_s, self.end, context=self.process.context)
        self.heard &= not silently  # what is under way when a process dies may still arrive
        self.loop.call_later(rng.random() * learns_s, self._unheard, context=self.loop.outside.context)

    def end(self) -> None:
        """The process learns that it is over."""
        self.open = False
        for channel in self.channels:
            channel.end()

    def _unheard(self) -> None:
        self.heard = False
        if self in self.broker.links:
            self.broker.links.remove(self)
        for channel in self.channels:
            self.broker.forget(channel)

    def later(self, action: Callable[..., Any], *args: Any, context: Any) -> None:
        """Do something after the way to the other side, in order."""
        self._last_arrival = max(self._last_arrival + 1e-6, self.loop.now + self.loop.rng.random() * LATENCY_S)
        self.loop.call_at(self._last_arrival, action, *args, context=context)

    async def _until_unblocked(self) -> None:
        while self.broker.blocked:  # noqa: ASYNC110 - looking costs nothing here
            await asyncio.sleep(1)


class Channel:
    """A channel and a queue in one: all that the bus asks of them."""

    def __init__(self, link: Link) -> None:
        self.link, self.is_closed = link, False
        self.unacked: list[Stored] = []
        self.prefetch = math.inf
        self.consumed: Queue | None = None
        self._take: Callable[[Any], Awaitable[None]]
        self._closed = link.loop.create_future()
        self._unconfirmed: dict[asyncio.Future[Any], None] = {}
        self._name = ""
        self.exclusive: str | None = None

    async def closed(self) -> Any:
        return await asyncio.shield(self._closed)

    async def close(self) -> None:
        self.end()
        self.link.broker.forget(self)

    def end(self) -> None:
        """The process learns that the channel is closed."""
        if not self.is_closed:
            self.is_closed = True
            self._closed.set_result(True)
        for confirmed in [one for one in self._unconfirmed if not one.done()]:
            if self.link.loop.rng.random() < CANCELS:
                confirmed.cancel()
            else:
                confirmed.set_exception(ConnectionResetError("the connection to the broker is lost"))

    async def set_qos(self, prefetch_count: int) -> None:
        self.prefetch = prefetch_count

    async def declare_exchange(self, *_: Any, **__: Any) -> None:
        await self.link.turn()

    async def get_exchange(self, name: str, **_: Any) -> "Exchange":
        return Exchange(self, name)

    async def declare_queue(self, name: str, *, arguments: Any = None, exclusive: bool = False, **_: Any) -> "Channel":
        await self.link.turn()
        limit = (arguments or {}).get("x-delivery-limit", 20)
        self.link.broker.queues.setdefault(name, Queue(limit, exclusive=exclusive))
        self._name, self.exclusive = name, name if exclusive else None
        return self

    @property
    def declaration_result(self) -> Any:
        return SimpleNamespace(message_count=len(self.link.broker.queues[self._name].waiting))

    async def bind(self, exchange: str, key: str = "") -> None:
        await self.link.turn()
        self.link.broker.routes.setdefault((exchange, key), {})[self._name] = None

    async def get_queue(self, name: str, **_: Any) -> "Channel":
        self._name = name
        return self

    async def consume(self, take: Callable[[Any], Awaitable[None]], **_: Any) -> None:
        await self.link.turn()
        self._take, self.consumed = take, self.link.broker.queues[self._name]
        self.consumed.channels.append(self)
        self.link.broker.deliver(self.consumed)

    async def publish(self, exchange: str, message: Any, key: str) -> Any:
        """The broker's confirmation. Raises ConnectionError, or CancelledError, where the connection is lost before."""
        if self.is_closed:
            raise ChannelInvalidStateError("closed")
        link, confirmed = self.link, self.link.loop.create_future()
        self._unconfirmed[confirmed] = None
        arrival = (self, message.body, (exchange, key), confirmed)
        link.later(link.broker.arrived, *arrival, context=link.loop.outside.context)
        try:
            return await confirmed
        finally:
            del self._unconfirmed[confirmed]

    def answer(self, confirmed: "asyncio.Future[Any]", frame: Any) -> None:
        """Called by the broker."""

        def settle() -> None:
            if self.link.open and self.link.heard and not confirmed.done():
                confirmed.set_result(frame)

        self.link.later(settle, context=self.link.process.context)

    def bring(self, stored: Stored) -> None:
        """Called by the broker."""
        message = SimpleNamespace(body=stored.body, redelivered=stored.deliveries > 1)

        async def ack(*, multiple: bool) -> None:
            if self.is_closed:
                raise ChannelInvalidStateError("closed")
            self.link.later(self._acknowledged, stored, context=self.link.loop.outside.context)

        message.ack = ack

        def arrive() -> None:
            if self.link.open:
                self.link.loop.create_task(self._take(message))

        self.link.later(arrive, context=self.link.process.context)

    def _acknowledged(self, last: Stored) -> None:
        if self.link.heard and self.link.broker.up and last in self.unacked:
            del self.unacked[: 1 + self.unacked.index(last)]
            if self.consumed is not None:
                self.link.broker.deliver(self.consumed)


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange, by a channel to it."""

    channel: Channel
    name: str

    async def publish(self, message: Any, routing_key: str, *, mandatory: bool) -> Any:
        """As `Channel.publish`."""
        return await self.channel.publish(self.name, message, routing_key)
