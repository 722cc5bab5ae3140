import asyncio
from functools import partial

from sqlalchemy import Engine, text

from services.billing.consumer import consume, handler
from services.billing.database import Threads
from services.billing.ledger import Ledger
from shared.bus import BusError
from shared.bus.local import LocalBus
from shared.bus.rabbit import RabbitBus
from shared.events import Encoded
from tests.integration.billing.books import balances, books
from tests.integration.billing.service import running, until
from tests.unit.billing.events import COST_PICO, usage


async def test_the_local_bus_returns_from_a_publish_when_the_usage_is_in_the_books(engine: Engine) -> None:
    async with running(engine.url.render_as_string(hide_password=False), bootstrap_key="a-key-of-any-form") as service:
        await asyncio.gather(*(service.publish(usage("demo")) for _ in range(50)))
        assert len(books(engine)["usage_record"]) == 50
        assert balances(engine, ["demo"]) == {"demo": 10**13 - 50 * COST_PICO}


async def test_a_publish_fails_while_the_books_cannot_take_it_and_succeeds_afterwards(
    engine: Engine, ledger: Ledger
) -> None:
    bus, threads = LocalBus(), Threads()
    consumer = asyncio.create_task(consume(bus, 0, handler(ledger, threads)))
    event = Encoded.of(usage(), "test")

    async def published() -> bool:
        try:
            await bus.publish(event)
        except BusError:
            return False
        return True

    await until(published)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE usage_record RENAME TO away"))
    assert not await published()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO usage_record"))
    assert await published()
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)
    threads.close()
    assert balances(engine, "w") == {"w": -COST_PICO}


async def test_usage_that_comes_over_rabbitmq_twice_is_booked_once_on_its_own_shard(
    engine: Engine, broker_url: str
) -> None:
    bus = RabbitBus(broker_url, shards=2, name="test")
    url = engine.url.render_as_string(hide_password=False)
    events = [usage(name) for name in ("a", "b", "c", "d") for _ in range(25)]
    try:
        async with running(url, bus, ledger_shards=2) as service:
            for name in "abcd":
                await service.post("/admin/workspaces", {"name": name, "id": name})
            await asyncio.gather(*map(service.publish, events), *map(service.publish, events))
            last = usage("a"), usage("b"), usage("c"), usage("d")
            await service.publish(*last)
            await until(partial(_booked, engine, {event.request_id for event in last}))
    finally:
        await bus.close()
    assert balances(engine, "abcd") == dict.fromkeys("abcd", -26 * COST_PICO)
    assert len({entry["shard"] for entry in books(engine)["ledger_entry"]}) == 2


async def _booked(engine: Engine, request_ids: set[str]) -> bool:
    return request_ids <= {record["request_id"] for record in books(engine)["usage_record"]}
