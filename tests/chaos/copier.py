"""A publisher beside the services: it copies some of what they publish, and adds messages that are no events."""

import asyncio
import random

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from shared.bus.rabbit import connected
from shared.events import USAGE_EXCHANGE
from tests.faults.background import Background
from tests.faults.poison import malformed

COPIED, MALFORMED = 0.05, 0.01  # of the messages
QUEUE = "chaos.copies"
PAUSE_S = 0.5  # before a broker that is away is tried again
CONFIRM_TIMEOUT_S = 10.0


class Copier:
    """Counts what the broker confirmed; what it did not confirm is published until it does."""

    def __init__(self, url: str, seed: int) -> None:
        self.copied = self.malformed = 0
        self._url, self._random = url, random.Random(seed)
        self._owed: list[bytes] = []
        self._background = Background()
        self._task = self._background.run(self._begin())

    def close(self) -> None:
        """Publish what is owed; then no more."""
        self._background.run(self._end())
        self._background.close()

    async def _begin(self) -> "asyncio.Task[None]":
        return asyncio.create_task(self._keep_copying())

    async def _end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        async with connected(self._url, "copier") as connection:
            await self._pay(await _exchange(await connection.channel()))

    async def _keep_copying(self) -> None:
        while True:
            try:
                async with connected(self._url, "copier") as connection:
                    await self._copy(await connection.channel())
            except (TimeoutError, *CONNECTION_EXCEPTIONS):
                await asyncio.sleep(PAUSE_S)

    async def _copy(self, channel: AbstractChannel) -> None:
        await channel.set_qos(prefetch_count=20)
        exchange = await _exchange(channel)
        queue = await channel.declare_queue(QUEUE, durable=True)
        await queue.bind(exchange, "#")
        async with queue.iterator() as messages:
            async for message in messages:
                if self._random.random() < COPIED:
                    self._owed.append(message.body)
                    self.copied += 1
                if self._random.random() < MALFORMED:
                    self._owed.append(malformed(self.malformed))
                    self.malformed += 1
                await self._pay(exchange)
                await message.ack()

    async def _pay(self, exchange: AbstractExchange) -> None:
        while self._owed:
            message = aio_pika.Message(self._owed[0], delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                await exchange.publish(message, "usage.v1.0")
            self._owed.pop(0)


async def _exchange(channel: AbstractChannel) -> AbstractExchange:
    return await channel.get_exchange(USAGE_EXCHANGE)
