"""Parked messages: delivered too often without being committed. Looked at without being taken, and sent again.

While they are looked at they are held back from everyone else; what is not sent again returns to its place.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self

import aio_pika
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

from shared.bus.rabbit import connected
from shared.events import PARKED_QUEUE, USAGE_EXCHANGE, UsageRecorded, decode

MOST = 10_000  # messages looked at, the oldest: some 100 MB at the worst, and far more than a person reads
ID_DIGITS = 12  # of the body's digest: enough to tell ten thousand apart

Json = dict[str, Any]


class NotSent(Exception):
    """A message cannot be sent again, or was not; says why. It stays parked."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A parked message. The id is that of its content, so that it is the same at every look."""

    id: str
    queue: str | None
    routing_key: str | None
    reason: str | None
    parked_at: str | None
    message: AbstractIncomingMessage

    @classmethod
    def of(cls, message: AbstractIncomingMessage) -> Self:
        """The message, with what RabbitMQ says of its death; None where it was put there by hand."""
        deaths: Any = message.headers.get("x-death") or [{}]
        death = deaths[0]
        return cls(
            id=hashlib.sha256(message.body).hexdigest()[:ID_DIGITS],
            queue=death.get("queue"),
            routing_key=next(iter(death.get("routing-keys", ())), None),
            reason=death.get("reason"),
            parked_at=death["time"].isoformat() if "time" in death else None,
            message=message,
        )

    def row(self) -> Json:
        """Its line in a list."""
        return {
            "id": self.id,
            "queue": self.queue,
            "reason": self.reason,
            "parked_at": self.parked_at,
            "events": len(decode(self.message.body)),
            "bytes": len(self.message.body),
        }

    def content(self) -> Json:
        """All of it: each event as it would be booked, or why it would be quarantined."""
        return self.row() | {
            "events": [
                event.model_dump()
                if isinstance(event, UsageRecorded)
                else {"refused": event.reason, "body": event.body.decode(errors="replace")}
                for event in decode(self.message.body)
            ]
        }


class Parking:
    """The messages held, oldest first."""

    def __init__(self, messages: list[Parked], usage: AbstractExchange) -> None:
        self.messages, self._usage = messages, usage

    async def requeue(self, parked: Parked) -> None:
        """Send a message to its shard again; it leaves here once the broker confirmed that. Raises NotSent."""
        if parked.routing_key is None:
            raise NotSent(f"{parked.id} was parked by nobody that says which shard it is for (no x-death)")
        message = parked.message
        again = aio_pika.Message(message.body, content_type=message.content_type, delivery_mode=message.delivery_mode)
        try:
            await self._usage.publish(again, parked.routing_key, mandatory=True)
        except aio_pika.exceptions.DeliveryError as error:
            raise NotSent(f"{parked.id} was not taken by {parked.queue}: {error}") from error
        await message.ack()


@contextlib.asynccontextmanager
async def parking(url: str) -> AsyncIterator[Parking]:
    """What is parked at a broker, for the length of the block."""
    async with connected(url, "parked") as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        usage = await channel.get_exchange(USAGE_EXCHANGE, ensure=False)
        queue = await channel.get_queue(PARKED_QUEUE)
        held = list[Parked]()
        while len(held) < MOST and (message := await queue.get(fail=False)) is not None:
            held.append(Parked.of(message))
        yield Parking(held, usage)
