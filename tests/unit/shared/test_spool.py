"""Usage waits on the disk while the broker is away: nothing acknowledged is lost, nothing grows without bound."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from shared import spool as spool_module
from shared.events import MAX_BATCH_EVENTS, Encoded
from shared.spool import Spool, SpoolFull
from tests.unit.shared.events import numbered

ROOT = Path(__file__).parents[3]
ROOM = 10**6
DEADLINE_S = 10.0


@contextlib.asynccontextmanager
async def opened(folder: Path, max_bytes: int = ROOM) -> AsyncIterator[Spool]:
    spool = Spool(folder, max_bytes)
    await spool.open()
    try:
        yield spool
    finally:
        await spool.close()


def number_of(event: Encoded) -> int:
    return orjson.loads(event.body)["number"]


async def waiting(spool: Spool) -> list[int]:
    """The numbers of all events in the spool, oldest first, taken out on the way."""
    found: list[int] = []
    while oldest := await spool.oldest():
        found += [number_of(event) for _, event in oldest]
        await spool.remove([place for place, _ in oldest])
    return found


events = st.lists(st.builds(Encoded, workspace_id=st.text().filter(lambda name: "\0" not in name), body=st.binary()))


@given(events, st.data())
def test_events_come_out_as_they_went_in_oldest_first_over_any_restart(
    tmp_path_factory: pytest.TempPathFactory, given_: list[Encoded], data: st.DataObject
) -> None:
    async def run(folder: Path) -> None:
        cut = data.draw(st.integers(0, len(given_)))
        for part in (given_[:cut], given_[cut:]):
            async with opened(folder) as spool:
                for event in part:
                    await spool.append(event)
        async with opened(folder) as spool:
            oldest = await spool.oldest()
            assert [event for _, event in oldest] == given_
            assert spool.size_bytes == sum(len(event.body) for event in given_)
            await spool.remove([place for place, _ in oldest[:cut]])
            assert [event for _, event in await spool.oldest()] == given_[cut:]
            assert spool.size_bytes == sum(len(event.body) for event in given_[cut:])

    asyncio.run(run(tmp_path_factory.mktemp("spool")))


@pytest.mark.parametrize("acknowledged", [1, 40, 400])
async def test_what_was_acknowledged_survives_sigkill(tmp_path: Path, acknowledged: int) -> None:
    command = [sys.executable, "-m", "tests.unit.shared.appender", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:  # noqa: ASYNC220 - nothing else runs
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(acknowledged)]
        process.kill()
        told += process.stdout.read().splitlines(keepends=True)
    numbers = {int(line) for line in told if line.endswith(b"\n")}
    assert len(numbers) >= acknowledged
    async with opened(tmp_path) as spool:
        found = await waiting(spool)
    assert numbers <= set(found)
    assert len(found) == len(set(found))


def test_an_append_is_on_the_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    """The power may fail, too: then only a synchronised commit is left."""

    async def run() -> tuple[int, str]:
        async with opened(tmp_path) as spool:
            ask = spool._database.execute
            level = await spool._run(lambda: ask("PRAGMA synchronous").fetchone()[0])
            mode = await spool._run(lambda: ask("PRAGMA journal_mode").fetchone()[0])
            return level, mode

    assert asyncio.run(run()) == (2, "wal")  # 2 is FULL


async def test_a_full_spool_takes_nothing_more_until_it_is_drained(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=100) as spool:
        await spool.append(numbered(1, size=60))
        assert spool.size_bytes < 100
        await spool.append(numbered(2, size=60))
        assert spool.full
        with pytest.raises(SpoolFull, match="100 bytes"):
            await spool.append(numbered(3))
        ((place, _), _) = await spool.oldest()
        await spool.remove([place])
        await spool.append(numbered(4))
        assert await waiting(spool) == [2, 4]


async def test_a_spool_that_was_full_is_full_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=10) as spool:
        await spool.append(numbered(1))
    async with opened(tmp_path, max_bytes=10) as spool:
        with pytest.raises(SpoolFull):
            await spool.append(numbered(2))


async def test_appends_that_come_together_do_not_pass_the_bound_by_more_than_a_batch(tmp_path: Path) -> None:
    async with opened(tmp_path, max_bytes=10_000) as spool:
        appends = (spool.append(numbered(number, size=1000)) for number in range(1000))
        told = await asyncio.gather(*appends, return_exceptions=True)
        refused = sum(isinstance(one, SpoolFull) for one in told)
        assert spool.size_bytes <= 10_000 + MAX_BATCH_EVENTS * 1100
        assert len(await waiting(spool)) == 1000 - refused


async def test_the_metrics_tell_how_much_waits_and_for_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(name: str) -> float | None:
        return REGISTRY.get_sample_value(f"opentoken_spool_{name}", {"spool": "mine"})

    monkeypatch.setattr(spool_module, "time", lambda: 1000.0)
    async with opened(tmp_path / "mine") as spool:
        assert (told("events"), told("bytes"), told("oldest_age_seconds")) == (0, 0, 0)
        await spool.append(numbered(1))
    assert told("events") is None, "what is closed tells nothing"
    monkeypatch.setattr(spool_module, "time", lambda: 1060.0)
    async with opened(tmp_path / "mine") as spool:
        await spool.append(numbered(2))
        assert (told("events"), told("oldest_age_seconds")) == (2, 60)
        assert told("bytes") == len(numbered(1).body + numbered(2).body)
        ((first, _), (second, _)) = await spool.oldest()
        await spool.remove([first])
        assert (told("events"), told("oldest_age_seconds")) == (1, 0)
        await spool.remove([second])
        assert (told("events"), told("bytes"), told("oldest_age_seconds")) == (0, 0, 0)


async def test_a_long_outage_is_never_held_in_memory(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await asyncio.gather(*(spool.append(numbered(number)) for number in range(5 * MAX_BATCH_EVENTS)))
        assert len(await spool.oldest()) == MAX_BATCH_EVENTS


async def test_processes_that_share_a_folder_have_a_spool_each_and_the_next_one_takes_what_is_left(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as first:
        async with opened(tmp_path) as second:
            await first.append(numbered(1))
            await second.append(numbered(2))
            assert await waiting(first) == [1]
        async with opened(tmp_path) as third:
            assert await waiting(third) == [2]
