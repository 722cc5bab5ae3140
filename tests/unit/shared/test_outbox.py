"""The outbox keeps every event, at the broker or on the disk until that is back; or the answer is refused."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shared import outbox as outbox_module
from shared.bus import BusError, Handler
from shared.errors import BillingUnavailable
from shared.events import MAX_BATCH_EVENTS, Encoded
from shared.outbox import Outbox
from shared.spool import Spool
from tests.unit.shared.events import numbered
from tests.unit.shared.test_spool import DEADLINE_S, ROOM, number_of, opened


class Broker:
    """A bus that can be away, silent or refusing; it keeps what it confirmed."""

    def __init__(self) -> None:
        self.connected = True
        self.confirms = True
        self.refuses: Callable[[int], bool] = lambda number: False
        self.published: list[int] = []

    async def publish(self, event: Encoded) -> None:
        if not self.connected or self.refuses(number_of(event)):
            raise BusError("away")
        if not self.confirms:
            await asyncio.Event().wait()
        self.published.append(number_of(event))

    async def consume(self, shard: int, handler: Handler) -> None:
        raise AssertionError("nobody consumes here")

    async def close(self) -> None:
        self.connected = False


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "BROKER_WAIT_S", 0.05)
    monkeypatch.setattr(outbox_module, "DRAIN_PAUSE_S", 0.005)


@contextlib.asynccontextmanager
async def outbox(broker: Broker, folder: Path, max_bytes: int = ROOM) -> AsyncIterator[tuple[Outbox, Spool]]:
    spool = Spool(folder, max_bytes)
    await spool.open()
    box = Outbox(broker, spool)
    try:
        yield box, spool
    finally:
        await box.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is on a disk
            await asyncio.sleep(0.002)


async def test_what_the_broker_confirms_never_touches_the_disk(tmp_path: Path) -> None:
    broker = Broker()
    async with outbox(broker, tmp_path) as (box, spool):
        await box.put(numbered(1))
        assert (broker.published, spool.size_bytes) == ([1], 0)


async def test_while_the_broker_is_away_usage_waits_and_is_published_oldest_first_when_it_is_back(
    tmp_path: Path,
) -> None:
    broker = Broker()
    broker.connected = False
    async with outbox(broker, tmp_path) as (box, spool):
        for number in range(3 * MAX_BATCH_EVENTS // 2):
            await box.put(numbered(number))
        assert not broker.published
        broker.connected = True
        await until(lambda: spool.size_bytes == 0)
        assert broker.published == list(range(3 * MAX_BATCH_EVENTS // 2))


async def test_a_broker_that_does_not_confirm_holds_an_answer_back_for_a_moment_only(tmp_path: Path) -> None:
    broker = Broker()
    broker.confirms = False
    async with outbox(broker, tmp_path) as (box, spool):
        await box.put(numbered(1))
        assert [number_of(event) for _, event in await spool.oldest()] == [1]


async def test_what_was_not_confirmed_is_published_again_and_what_was_is_not(tmp_path: Path) -> None:
    broker = Broker()
    broker.connected = False
    async with outbox(broker, tmp_path) as (box, spool):
        for number in range(4):
            await box.put(numbered(number))
        broker.refuses = lambda number: number == 2
        broker.connected = True
        await until(lambda: broker.published == [0, 1, 3])
        assert spool.size_bytes > 0
        broker.refuses = lambda number: False
        await until(lambda: spool.size_bytes == 0)
        assert broker.published == [0, 1, 3, 2]


async def test_what_an_earlier_process_left_is_published_by_the_next(tmp_path: Path) -> None:
    broker = Broker()
    broker.connected = False
    async with outbox(broker, tmp_path) as (box, _):
        await box.put(numbered(7))
    broker.connected = True
    async with outbox(broker, tmp_path) as (_, spool):
        await until(lambda: spool.size_bytes == 0)
    assert broker.published == [7]


async def test_with_the_broker_away_and_the_spool_full_nothing_is_served(tmp_path: Path) -> None:
    broker = Broker()
    async with outbox(broker, tmp_path, max_bytes=0) as (box, _):
        box.check()
        broker.connected = False
        with pytest.raises(BillingUnavailable) as refused:
            box.check()
        assert int(refused.value.headers["Retry-After"]) > 0
        with pytest.raises(BillingUnavailable):
            await box.put(numbered(1))


async def test_a_spool_that_is_filling_up_asks_to_be_left_out_while_it_still_takes_what_comes(tmp_path: Path) -> None:
    broker, size = Broker(), len(numbered(0).body)
    broker.connected = False
    async with outbox(broker, tmp_path, max_bytes=10 * size) as (box, spool):
        for number in range(8):
            box.ready()
            await box.put(numbered(number))
        with pytest.raises(BillingUnavailable, match="80 % full"):
            box.ready()
        box.check()
        await box.put(numbered(8))
        broker.connected = True
        await until(lambda: spool.size_bytes == 0)
        box.ready()


@pytest.mark.parametrize("connected", [False, True])
async def test_nothing_is_started_whose_usage_might_find_the_spool_full_at_its_end(
    tmp_path: Path, connected: bool
) -> None:
    """A broker that is connected need not confirm; what it has all the same must not be refused for want of room."""
    broker, size = Broker(), len(numbered(0).body)
    broker.connected, broker.confirms = connected, False
    async with outbox(broker, tmp_path, max_bytes=10 * size) as (box, spool):
        for number in range(9):
            box.check()
            await spool.append(numbered(number))
        with pytest.raises(BillingUnavailable):
            box.check()
        await box.put(numbered(9))


async def test_without_a_spool_the_bus_alone_decides() -> None:
    broker = Broker()
    box = Outbox(broker, None)
    await box.put(numbered(1))
    broker.connected = False
    for refused in (box.check, lambda: asyncio.run(box.put(numbered(2)))):
        with pytest.raises(BillingUnavailable):
            await asyncio.to_thread(refused)
    await box.close()


async def test_a_disk_that_fails_is_no_answer_for_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rows: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    broker = Broker()
    broker.connected = False
    async with outbox(broker, tmp_path) as (box, spool):
        monkeypatch.setattr(spool, "_write", fail)
        with pytest.raises(BillingUnavailable):
            await box.put(numbered(1))


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), ZeroDivisionError()], ids=repr)
async def test_whatever_fails_once_does_not_end_the_draining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    broker, failed = Broker(), asyncio.Event()

    async def fail() -> list[tuple[int, Encoded]]:
        failed.set()
        monkeypatch.undo()
        raise error

    async with outbox(broker, tmp_path) as (_, spool):
        await spool.append(numbered(1))
        monkeypatch.setattr(spool, "oldest", fail)
        await asyncio.wait_for(failed.wait(), DEADLINE_S)
        await until(lambda: broker.published == [1])


async def test_a_process_that_ends_publishes_what_is_in_its_spool_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "DRAIN_PAUSE_S", 3600.0)  # what drains is asleep when the broker comes back
    broker, count = Broker(), 3 * MAX_BATCH_EVENTS // 2
    broker.connected = False
    async with outbox(broker, tmp_path) as (box, _):
        await asyncio.gather(*(box.put(numbered(number)) for number in range(count)))
        broker.connected = True
    assert broker.published == list(range(count))
    async with opened(tmp_path) as spool:
        assert spool.size_bytes == 0


async def test_a_process_that_ends_does_not_wait_for_a_broker_that_confirms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "EMPTY_S", 0.05)
    broker = Broker()
    broker.confirms = False
    async with outbox(broker, tmp_path) as (box, _):
        await box.put(numbered(1))
    async with opened(tmp_path) as spool:
        assert [number_of(event) for _, event in await spool.oldest()] == [1]
