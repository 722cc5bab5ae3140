"""Both ends of a bus at a real RabbitMQ, and what tests do to it behind their backs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson

from shared.bus import Handler, Message
from shared.bus.rabbit import RabbitBus

DEADLINE_S = 40.0  # quorum queues of a broker that was killed take some 10 s to come back


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens at the broker
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def connected(url: str, shards: int = 1, name: str = "test") -> AsyncIterator[RabbitBus]:
    bus = RabbitBus(url, shards=shards, name=name)
    try:
        await until(lambda: bus.connected)
        yield bus
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def consuming(bus: RabbitBus, handler: Handler, shard: int = 0) -> AsyncIterator[None]:
    task = asyncio.create_task(bus.consume(shard, handler))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Taker:
    """Keeps the numbers that arrive; refuses a batch as often as told."""

    def __init__(self, refusals: int = 0) -> None:
        self.taken: list[int] = []
        self.redelivered: list[int] = []
        self.refusals = refusals

    async def take(self, messages: Sequence[Message]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ValueError("database away")
        self.taken += numbers(messages)
        self.redelivered += numbers([one for one in messages if one.redelivered])


def numbers(messages: Sequence[Message]) -> list[int]:
    return [event["number"] for message in messages for event in orjson.loads(message.body)]
