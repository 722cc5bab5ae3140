"""The bus: how facts leave a service, and how billing takes them. Two kinds, chosen by the URL's scheme.

`local:` hands events to the consumer of the same process (`shared.bus.local`); `amqp://` and `amqps://` mean
RabbitMQ (`shared.bus.rabbit`). Delivery is at least once: a consumer must recognise what it has seen.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.changes import AccountChanged
from shared.events import Encoded


class BusError(Exception):
    """The bus did not take an event; whether it will be delivered is unknown, so publish it again."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it came: the body is a batch of events (`shared.events.decode`)."""

    body: bytes
    redelivered: bool = False


Handler = Callable[[Sequence[Message]], Awaitable[None]]
"""Takes messages; returns when they are committed; raises to have the same messages again."""


class Watcher(Protocol):
    """Is told what changed, and between which moments it is told everything."""

    def began(self) -> None:
        """From now on every change arrives; any before this may have been missed."""

    def ended(self) -> None:
        """From now on changes may be missed."""

    def changed(self, change: AccountChanged) -> None:
        """A change, as soon as it is known; the same one may come twice."""


class Bus(Protocol):
    """What both kinds offer."""

    @property
    def connected(self) -> bool:
        """Whether a publish can be expected to succeed now."""

    async def publish(self, event: Encoded) -> None:
        """Return once the event is durable outside this process. Raises BusError."""

    async def consume(self, shard: int, handler: Handler) -> None:
        """Hand a shard's messages to `handler`, in order, until cancelled; each until it succeeds."""

    async def close(self) -> None:
        """Finish what is under way, and disconnect."""


class AccountBus(Bus, Protocol):
    """One that carries changes of accounts, too: what billing and edges are on."""

    async def announce(self, change: AccountChanged) -> None:
        """Return once the change is on its way to every watcher there is. Raises BusError."""

    async def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of every change, until cancelled."""
