"""A consumer gets what waits, whatever becomes of the one before it; what nobody can commit is parked, not lost."""

import asyncio
from collections.abc import Sequence
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from structlog.testing import capture_logs

from shared.bus import Message, consumer, rabbit
from shared.bus.topology import DELIVERY_LIMIT
from shared.events import PARKED_QUEUE, queue_of
from tests.proxy import proxied
from tests.unit.shared.broker import DEADLINE_S, Taker, connected, consuming, numbers, until
from tests.unit.shared.events import numbered


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "LOOK_S", 0.2)
    monkeypatch.setattr(rabbit, "HEARTBEAT_S", 1)
    monkeypatch.setattr(rabbit, "RECONNECT_S", (0.05, 0.2))


async def test_a_consumer_that_gets_nothing_while_messages_wait_comes_anew_until_it_does(broker_url: str) -> None:
    """Another one holds the queue here and takes nothing: to the consumer that is a queue which never delivers."""
    taker = Taker()
    async with connected(broker_url) as bus, await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        await (await channel.get_queue(queue_of(0))).consume(asyncio.Queue[Any]().put)  # no acknowledgement
        with capture_logs() as logs:
            async with consuming(bus, taker.take):
                for number in range(3):
                    await bus.publish(numbered(number))
                await until(lambda: sum(line["event"] == "consumer_stalled" for line in logs) >= 2)
                assert not taker.taken
                await connection.close()
                await until(lambda: sorted(taker.taken) == [0, 1, 2])


async def test_a_consumer_whose_ledger_is_away_keeps_its_messages_however_long_it_takes(broker_url: str) -> None:
    """To come anew would count a delivery each time, until innocent messages are parked."""
    ledger_back, taker = asyncio.Event(), Taker()

    async def take(messages: Sequence[Message]) -> None:
        await ledger_back.wait()
        await taker.take(messages)

    async with connected(broker_url) as bus:
        with capture_logs() as logs:
            async with consuming(bus, take):
                # More than are fetched ahead, so that some wait at the broker all the time.
                await asyncio.gather(*(bus.publish(numbered(n, size=40_000)) for n in range(consumer.PREFETCH + 20)))
                seen = consumer.MESSAGES.labels(queue_of(0))
                await until(lambda: seen._value.get() > 0)
                for _ in range(3):
                    seen.set(-1)
                    await until(lambda: seen._value.get() > 0)
                ledger_back.set()
                await until(lambda: len(taker.taken) == consumer.PREFETCH + 20)
    assert not taker.redelivered
    assert not [line for line in logs if line["event"] == "consumer_stalled"]


@pytest.mark.parametrize("fails", ["cut", "freeze"])
async def test_a_second_consumer_stands_by_and_takes_over_from_one_that_is_cut_off_or_hangs(
    broker_url: str, fails: str
) -> None:
    first, second = Taker(), Taker()
    async with proxied(broker_url) as (network, through), connected(broker_url) as bus:
        async with connected(through) as active, consuming(active, first.take):
            await bus.publish(numbered(0))
            await until(lambda: first.taken == [0])
            async with consuming(bus, second.take):
                for number in range(1, 10):
                    await bus.publish(numbered(number))
                await until(lambda: len(first.taken) == 10)
                assert not second.taken, "only one is active"
                getattr(network, fails)()
                for number in range(10, 20):
                    await bus.publish(numbered(number))
                # One that is merely cut off may be back before the other is asked.
                await until(lambda: set(first.taken + second.taken) == set(range(20)))
                if fails == "freeze":
                    assert set(second.taken) >= set(range(10, 20))
                network.thaw()
                await bus.publish(numbered(20))
                await until(lambda: 20 in first.taken + second.taken)
        assert len(first.taken) == len(set(first.taken))
        assert len(second.taken) == len(set(second.taken))


async def test_after_an_outage_a_consumer_catches_up_with_all_that_waited(broker_url: str) -> None:
    taker = Taker()
    async with (
        connected(broker_url) as bus,
        proxied(broker_url) as (network, through),
        connected(through) as other,
        consuming(other, taker.take),
    ):
        await bus.publish(numbered(0))
        await until(lambda: taker.taken == [0])
        network.freeze()
        await asyncio.gather(*(bus.publish(numbered(number, size=100)) for number in range(1, 5001)))
        network.thaw()
        await until(lambda: len(set(taker.taken)) == 5001)


async def test_what_was_delivered_too_often_is_parked_and_the_others_pass(broker_url: str) -> None:
    taker = Taker()
    async with connected(broker_url) as bus, await aio_pika.connect(broker_url) as connection:
        channel, deliveries = await connection.channel(), 0

        async def refuse(message: AbstractIncomingMessage) -> None:
            nonlocal deliveries
            deliveries += 1
            await message.reject(requeue=True)

        tag = await (await channel.get_queue(queue_of(0))).consume(refuse)
        await bus.publish(numbered(1))
        await until(lambda: deliveries == DELIVERY_LIMIT + 1)
        await (await channel.get_queue(queue_of(0))).cancel(tag)
        parked = asyncio.Queue[AbstractIncomingMessage]()
        await (await channel.get_queue(PARKED_QUEUE)).consume(parked.put)
        message = await asyncio.wait_for(parked.get(), DEADLINE_S)
        assert numbers([Message(message.body)]) == [1]
        async with consuming(bus, taker.take):
            await bus.publish(numbered(2))
            await until(lambda: taker.taken)
    assert taker.taken == [2]
