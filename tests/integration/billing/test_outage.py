"""Billing over RabbitMQ through what happens to brokers and consumers: each request in the books, and once."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from services.billing.accounts import Accounts
from services.billing.consumer import consume, handler
from services.billing.database import Threads, connect, reading
from services.billing.ledger import Ledger
from services.billing.tables import usage_record
from shared.bus import rabbit
from shared.bus.rabbit import RabbitBus
from shared.events import Encoded
from shared.outbox import Outbox
from shared.spool import Spool
from tests.integration.billing.books import balances, books
from tests.integration.billing.service import until
from tests.proxy import proxied
from tests.servers import Server
from tests.unit.billing.events import COST_PICO, usage

OUTAGE_EVENTS = 30_000  # ten minutes at 50 requests/s
LANES = 50  # requests that end at a time
CAUGHT_UP_S = 90.0  # what is promised for such an outage
MEMORY_KIB = 16 * 1024  # the events themselves have twice that


@contextlib.asynccontextmanager
async def billing(url: str, engine: Engine) -> AsyncIterator[RabbitBus]:
    """The consuming half of a billing process, with a connection to the database of its own."""
    own, threads = connect(engine.url.render_as_string(hide_password=False)), Threads()
    bus = RabbitBus(url, shards=1, name="billing")
    task = asyncio.create_task(consume(bus, 0, handler(Ledger(own), threads)))
    try:
        yield bus
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()
        threads.close()
        own.dispose()


def recorded(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.scalar(select(func.count()).select_from(usage_record)) or 0


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def test_while_one_billing_hangs_another_takes_over_and_nothing_is_booked_twice(
    postgres_engine: Engine, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's connection is frozen again and again: it goes on with what it has, and cannot acknowledge it."""
    monkeypatch.setattr(rabbit, "HEARTBEAT_S", 1)
    monkeypatch.setattr(rabbit, "CONFIRM_TIMEOUT_S", 1.0)
    Accounts(postgres_engine).create_workspace("w", "w")
    published = 0

    async def publish(bus: RabbitBus, count: int) -> None:
        nonlocal published
        await asyncio.gather(*(bus.publish(Encoded.of(usage(), "test")) for _ in range(count)))
        published += count

    async def all_booked() -> bool:
        return await asyncio.to_thread(recorded, postgres_engine) == published

    async with (
        proxied(broker_url) as (network, through),
        billing(through, postgres_engine),
        billing(broker_url, postgres_engine) as second,
    ):
        await until(lambda: _true(second.connected))
        for _ in range(2):
            await publish(second, 300)
            network.freeze()
            await publish(second, 300)
            await until(all_booked)
            network.thaw()
            await publish(second, 300)
        await until(all_booked)
    assert balances(postgres_engine, "w") == {"w": -published * COST_PICO}
    assert len(books(postgres_engine)["ledger_entry"]) == published == 1800
    assert books(postgres_engine)["conflict"] == []


@pytest.mark.faults
async def test_usage_of_ten_minutes_without_a_broker_waits_on_the_disk_and_is_soon_in_the_books_after_its_return(
    own_broker: tuple[Server, str], postgres_engine: Engine, tmp_path: Path
) -> None:
    server, url = own_broker
    Accounts(postgres_engine).create_workspace("w", "w")
    spool = Spool(tmp_path, 2**30)
    await spool.open()
    async with billing(url, postgres_engine):
        bus = RabbitBus(url, shards=1, name="worker")
        outbox = Outbox(bus, spool)
        await until(lambda: _true(bus.connected))
        await asyncio.to_thread(server.stop)
        await until(lambda: _true(not bus.connected))
        before = peak_kib()
        numbers = iter(range(OUTAGE_EVENTS))

        async def lane() -> None:
            for _ in numbers:
                await outbox.put(Encoded.of(usage(), "test"))

        await asyncio.gather(*(lane() for _ in range(LANES)))
        assert peak_kib() - before < MEMORY_KIB
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(CAUGHT_UP_S):
            while await asyncio.to_thread(recorded, postgres_engine) < OUTAGE_EVENTS:  # noqa: ASYNC110 - in the books
                await asyncio.sleep(0.1)
        await until(lambda: _true(spool.size_bytes == 0))
        await outbox.close()
    assert balances(postgres_engine, "w") == {"w": -OUTAGE_EVENTS * COST_PICO}


async def _true(value: object) -> bool:
    return bool(value)
