"""The embedded bus: a publish returns when the ledger's writer has committed, and not before."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bus import BusError, Handler, Message
from shared.bus.local import LocalBus
from tests.unit.shared.events import numbered


@contextlib.asynccontextmanager
async def consumed(handler: Handler) -> AsyncIterator[LocalBus]:
    """A local bus whose events go to `handler`."""
    bus = LocalBus()
    consuming = asyncio.create_task(bus.consume(0, handler))
    await asyncio.sleep(0)
    assert bus.connected
    try:
        yield bus
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        assert not bus.connected


def numbers(messages: Sequence[Message]) -> list[int]:
    return [event["number"] for message in messages for event in orjson.loads(message.body)]


@given(st.integers(0, 500))
def test_every_event_reaches_the_consumer_once_and_in_order(count: int) -> None:
    async def run() -> None:
        taken: list[int] = []

        async def take(messages: Sequence[Message]) -> None:
            taken.extend(numbers(messages))

        async with consumed(take) as bus:
            await asyncio.gather(*(bus.publish(numbered(number)) for number in range(count)))
        assert taken == list(range(count))

    asyncio.run(run())


async def test_a_publish_returns_when_its_event_is_committed() -> None:
    commit, taken = asyncio.Event(), asyncio.Event()

    async def take(messages: Sequence[Message]) -> None:
        taken.set()
        await commit.wait()

    async with consumed(take) as bus:
        publishing = asyncio.create_task(bus.publish(numbered(1)))
        await taken.wait()
        assert not publishing.done()
        commit.set()
        await publishing


async def test_what_the_ledger_refuses_is_told_to_whoever_published_it() -> None:
    async def refuse(messages: Sequence[Message]) -> None:
        raise ValueError("disk full")

    async with consumed(refuse) as bus:
        with pytest.raises(BusError, match="disk full"):
            await bus.publish(numbered(1))


async def test_nothing_is_accepted_that_nobody_takes() -> None:
    bus = LocalBus()
    assert not bus.connected
    with pytest.raises(BusError, match="nothing consumes"):
        await bus.publish(numbered(1))
    await bus.close()


async def test_there_is_one_writer_and_a_second_is_refused() -> None:
    async def take(messages: Sequence[Message]) -> None:
        return

    async with consumed(take) as bus:
        with pytest.raises(BusError, match="has a consumer already"):
            await bus.consume(0, take)
        await bus.publish(numbered(1))


async def test_a_consumer_that_ends_commits_what_was_under_way() -> None:
    taken: list[int] = []
    commit = asyncio.Event()

    async def take(messages: Sequence[Message]) -> None:
        await commit.wait()
        taken.extend(numbers(messages))

    async with consumed(take) as bus:
        publishing = [asyncio.create_task(bus.publish(numbered(number))) for number in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(bus.close())
        await asyncio.sleep(0)
        assert not closing.done()
        commit.set()
        await closing
        await asyncio.gather(*publishing)
    assert taken == [0, 1, 2]
