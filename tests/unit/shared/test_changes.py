"""Changes of accounts reach whoever watches, on either bus; what may have been missed is said."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aio_pika
import orjson
import pytest
from yarl import URL

from shared.bus import AccountBus, BusError, rabbit
from shared.bus.local import LocalBus
from shared.bus.rabbit import RabbitBus
from shared.changes import AccountChanged

DEADLINE_S = 40.0
CHANGE = AccountChanged(workspace_id="w", key_id="k")


class Watching:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str | AccountChanged] = []

    def began(self) -> None:
        self.told.append("began")

    def ended(self) -> None:
        self.told.append("ended")

    def changed(self, change: AccountChanged) -> None:
        self.told.append(change)


@contextlib.asynccontextmanager
async def watching(bus: AccountBus) -> AsyncIterator[Watching]:
    watcher = Watching()
    task = asyncio.create_task(bus.watch(watcher))
    try:
        await until(lambda: watcher.told)
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens at the broker
            await asyncio.sleep(0.01)


@pytest.fixture(params=["local", pytest.param("rabbit", marks=pytest.mark.servers)])
async def bus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AccountBus]:
    monkeypatch.setattr(rabbit, "RECONNECT_S", (0.05, 0.2))
    if request.param == "local":
        yield LocalBus()
        return
    made = RabbitBus(request.getfixturevalue("broker_url"), shards=1, name="test")
    await until(lambda: made.connected)
    yield made
    await made.close()


async def test_a_change_reaches_every_edge_that_watches_and_no_later_one(bus: AccountBus) -> None:
    async with watching(bus) as one, watching(bus) as other:
        await bus.announce(CHANGE)
        await until(lambda: one.told == other.told == ["began", CHANGE])
    await bus.announce(CHANGE)
    async with watching(bus) as late:
        assert late.told == ["began"]
    assert one.told == ["began", CHANGE, "ended"]


@contextlib.asynccontextmanager
async def cuttable(url: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """The broker behind a wire that can be cut: its URL, and what cuts all connections of the moment."""
    broker, writers = URL(url), list[asyncio.StreamWriter]()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(broker.host, broker.port)
        writers.extend((writer, back))
        await asyncio.gather(pump(reader, back), pump(there, writer))

    def cut() -> None:
        for writer in writers:
            writer.close()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield str(broker.with_host("127.0.0.1").with_port(port)), cut
    finally:
        server.close()
        cut()


async def test_a_watch_that_was_interrupted_says_so_and_goes_on(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbit, "RECONNECT_S", (0.05, 0.2))
    async with cuttable(broker_url) as (url, cut):
        bus = RabbitBus(url, shards=1, name="test")
        await until(lambda: bus.connected)
        async with watching(bus) as watcher:
            cut()
            await until(lambda: watcher.told == ["began", "ended", "began"] and bus.connected)
            await bus.announce(CHANGE)
            await until(lambda: watcher.told[-1] == CHANGE)
        await bus.close()


async def test_without_a_broker_an_announcement_fails_at_once() -> None:
    bus = RabbitBus("amqp://guest:guest@127.0.0.1:1/", shards=1, name="test")
    with pytest.raises(BusError, match="away"):
        await bus.announce(CHANGE)
    await bus.close()


async def test_what_is_no_change_is_passed_over(broker_url: str) -> None:
    bus = RabbitBus(broker_url, shards=1, name="test")
    await until(lambda: bus.connected)
    async with watching(bus) as watcher, await aio_pika.connect(broker_url) as connection:
        exchange = await (await connection.channel()).get_exchange("accounts")
        for body in (b"{", b"[]", b"{}", orjson.dumps({"type": "opentoken.account.changed.v1", "data": {"a": 1}})):
            await exchange.publish(aio_pika.Message(body), "")
        await bus.announce(CHANGE)
        await until(lambda: len(watcher.told) > 1)
    assert watcher.told == ["began", CHANGE, "ended"]
    await bus.close()


def test_a_change_is_a_cloud_event_that_names_its_workspace() -> None:
    event = orjson.loads(CHANGE.to_json())
    assert (event["type"], event["subject"]) == ("opentoken.account.changed.v1", "w")
    assert AccountChanged.of_json(CHANGE.to_json()) == CHANGE
