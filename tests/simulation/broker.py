"""RabbitMQ's side: quorum queues, and what becomes of a message.

A publish is confirmed once it is stored; a confirmation can be lost, a publish be stored twice. What a lost consumer
had not acknowledged comes again, first, and counted: past the limit it is parked. The first consumer is the active one.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pamqp.commands import Basic

from shared.events import PARKED_QUEUE, USAGE_EXCHANGE
from tests.simulation.loop import Loop

if TYPE_CHECKING:
    from tests.simulation.amqp import Channel, Link


@dataclass(slots=True, eq=False)
class Stored:
    """A message in a queue."""

    body: bytes
    deliveries: int = 0


class Queue:
    """A queue; an exclusive one lives as long as the connection that made it."""

    def __init__(self, limit: int, *, exclusive: bool) -> None:
        self.limit, self.exclusive = limit, exclusive
        self.waiting: deque[Stored] = deque()
        self.channels: list[Channel] = []


class Broker:
    """The one broker; `up`, `blocked` and `refusing` are for the faults to set."""

    def __init__(self, loop: Loop, duplicates: float) -> None:
        self.loop, self.duplicates = loop, duplicates
        self.up, self.refusing, self._blocked = True, False, False
        self.queues: dict[str, Queue] = {}
        self.routes: dict[tuple[str, str], dict[str, None]] = {}  # by exchange and key; in the order of their making
        self.links: list[Link] = []
        self._held: list[Callable[[], None]] = []

    @property
    def depth(self) -> int:
        """Messages that are not done with."""
        return sum(len(queue.waiting) + sum(len(one.unacked) for one in queue.channels) for queue in self._ordinary())

    @property
    def parked(self) -> int:
        """Messages that were given up."""
        return len(self.queues[PARKED_QUEUE].waiting)

    def _ordinary(self) -> Iterator[Queue]:
        return (queue for name, queue in self.queues.items() if name != PARKED_QUEUE and not queue.exclusive)

    @property
    def blocked(self) -> bool:
        """Whether it takes no messages for now."""
        return self._blocked

    @blocked.setter
    def blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        while self._held and not blocked:
            self._held.pop(0)()

    def kill(self) -> None:
        """Lose every connection; what is stored is kept, what is on its way is not."""
        self.up = False
        self._held.clear()
        for link in list(self.links):
            link.broken()

    def arrived(
        self, channel: "Channel", body: bytes, route: tuple[str, str], confirmed: "asyncio.Future[Any]"
    ) -> None:
        """A publish has reached the broker."""
        if not (channel.link.heard and self.up):
            return
        if self.blocked:
            self._held.append(lambda: self.arrived(channel, body, route, confirmed))
        elif self.refusing and route[0] == USAGE_EXCHANGE:  # its queue is what can refuse
            channel.answer(confirmed, Basic.Nack())
        else:
            copies = 2 if self.loop.rng.random() < self.duplicates else 1
            channel.answer(confirmed, Basic.Ack())
            for name in self.routes.get(route, ()):
                self.queues[name].waiting.extend(Stored(body) for _ in range(copies))
                self.deliver(self.queues[name])

    def deliver(self, queue: Queue) -> None:
        """Hand the active consumer what it has room for."""
        while queue.channels and queue.waiting and len(queue.channels[0].unacked) < queue.channels[0].prefetch:
            channel, stored = queue.channels[0], queue.waiting.popleft()
            stored.deliveries += 1
            channel.unacked.append(stored)
            channel.bring(stored)

    def forget(self, channel: "Channel") -> None:
        """A consumer is gone: what it had not acknowledged comes again, first."""
        if channel.exclusive is not None:
            self.queues.pop(channel.exclusive, None)
            for bound in self.routes.values():
                bound.pop(channel.exclusive, None)
        queue = channel.consumed
        if queue is None or channel not in queue.channels:
            return
        queue.channels.remove(channel)
        for stored in reversed(channel.unacked):
            given_up = stored.deliveries > queue.limit
            (self.queues[PARKED_QUEUE] if given_up else queue).waiting.appendleft(stored)
        channel.unacked = []
        self.deliver(queue)
