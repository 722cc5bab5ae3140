"""What a disk can do to a spool: end in the middle of a write, keep something else, be full, and have room again."""

import asyncio
import contextlib
import random
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.bus import BusError, Handler
from shared.errors import BillingUnavailable
from shared.events import Encoded
from shared.outbox import Outbox
from shared.spool import Spool
from tests.unit.shared.events import numbered

ROOM = 10**8
EVENTS = 30
CUTS = 40  # anywhere in the log, besides those at the end of each event


@contextlib.contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """Files of this process may not grow past the limit: the kernel refuses, as it does where the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def found_in(folder: Path) -> list[Encoded]:
    """All that a spool in a folder holds; it must be fit to take more."""
    spool = Spool(folder, ROOM)
    await spool.open()
    try:
        events = [event for _, event in await spool.oldest()]
        assert spool.size_bytes == sum(len(event.body) for event in events)
        await spool.append(numbered(-1))
        assert [event for _, event in await spool.oldest()] == [*events, numbered(-1)]
        return events
    finally:
        await spool.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Encoded], list[int]]:
    """A spool's files as they were while it ran, its events, and how long its log was when each was acknowledged."""
    events = [numbered(number, size=random.Random(number).randrange(6000)) for number in range(EVENTS)]
    folder, copy, lengths = tmp_path_factory.mktemp("spool"), tmp_path_factory.mktemp("copy"), list[int]()

    async def run() -> None:
        spool = Spool(folder, ROOM)
        await spool.open()
        for event in events:
            await spool.append(event)
            lengths.append((folder / "spool.db-wal").stat().st_size)
        for name in ("spool.db", "spool.db-wal"):
            shutil.copy(folder / name, copy / name)
        await spool.close()

    asyncio.run(run())
    assert lengths == sorted(set(lengths)), "the log starts over: write less"
    return copy, events, lengths


def cuts(lengths: list[int]) -> list[int]:
    edges = [length + more for length in lengths for more in (-1, 0, 1)]
    return sorted({*edges, *random.Random(1).sample(range(lengths[-1]), CUTS)})


def rubbish(was: bytes, chance: random.Random) -> bytes:
    """Random bytes, but for the first: were it by chance what was there, one byte that was cut off would be whole."""
    return bytes([was[0] ^ 0xFF]) + chance.randbytes(10_000)


async def test_whatever_end_of_the_log_is_torn_off_all_that_was_acknowledged_before_is_there(
    written: tuple[Path, list[Encoded], list[int]], tmp_path: Path
) -> None:
    copy, events, lengths = written
    for cut in cuts(lengths):
        folder = tmp_path / str(cut)
        shutil.copytree(copy, folder)
        with (folder / "spool.db-wal").open("r+b") as log:
            log.truncate(cut)
        acknowledged = sum(length <= cut for length in lengths)
        assert await found_in(folder) == events[:acknowledged]
        shutil.rmtree(folder)


async def test_rubbish_at_the_end_of_the_log_is_no_event(
    written: tuple[Path, list[Encoded], list[int]], tmp_path: Path
) -> None:
    copy, events, lengths = written
    for cut in cuts(lengths)[::5]:
        folder = tmp_path / str(cut)
        shutil.copytree(copy, folder)
        with (folder / "spool.db-wal").open("r+b") as log:
            log.seek(cut)
            was = log.read(1) or b"\0"
            log.seek(cut)
            log.write(rubbish(was, random.Random(cut)))
        acknowledged = sum(length <= cut for length in lengths)
        assert await found_in(folder) == events[:acknowledged]
        shutil.rmtree(folder)


class Away:
    """A broker that is not there, or looks as if it were."""

    def __init__(self, *, connected: bool = False) -> None:
        self.connected = connected

    async def publish(self, event: Encoded) -> None:
        raise BusError("away")

    async def consume(self, shard: int, handler: Handler) -> None:
        raise AssertionError("nobody consumes here")

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("connected", [False, True])
async def test_with_a_full_disk_nothing_is_started_and_what_comes_is_kept_once_there_is_room(
    tmp_path: Path, connected: bool
) -> None:
    spool = Spool(tmp_path, ROOM)
    await spool.open()
    box = Outbox(Away(connected=connected), spool)
    await box.put(numbered(0))
    for attempt in range(3):
        with full_disk((tmp_path / "spool.db-wal").stat().st_size), pytest.raises(BillingUnavailable):
            await box.put(numbered(99, size=100_000))
        with pytest.raises(BillingUnavailable):
            box.check()
        await box.put(numbered(attempt + 1))  # an answer that was under way
        box.check()
    assert [event for _, event in await spool.oldest()] == [numbered(number) for number in range(4)]
    await box.close()


async def test_a_full_disk_while_events_are_removed_only_leaves_them_to_be_published_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ROOM)
    await spool.open()
    await asyncio.gather(*(spool.append(numbered(number)) for number in range(10)))
    places = [place for place, _ in await spool.oldest()]
    with full_disk((tmp_path / "spool.db-wal").stat().st_size), pytest.raises(sqlite3.Error):
        await spool.remove(places)
    assert spool.size_bytes == sum(len(numbered(number).body) for number in range(10))
    await spool.remove(places)
    assert (spool.size_bytes, await spool.oldest()) == (0, [])
    await spool.close()
