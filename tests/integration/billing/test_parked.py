"""What billing could not commit, as an operator finds it, looks at it, and sends it again."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from services.billing.parking import parking
from services.cli import parked
from services.cli.output import Failed
from shared.bus import Message
from shared.bus.rabbit import RabbitBus
from shared.events import PARKED_QUEUE, Encoded, queue_of
from tests.integration.billing.service import until
from tests.integration.billing.test_cli import Terminal
from tests.unit.billing.events import usage


@pytest.fixture(autouse=True)
def at_the_broker(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENTOKEN_BROKER_URL", broker_url)


async def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    await asyncio.to_thread(parked.list_, as_json=True)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def shown(id_: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    await asyncio.to_thread(parked.show_one, id_)
    return json.loads(capsys.readouterr().out)


@contextlib.asynccontextmanager
async def bus_at(url: str) -> AsyncIterator[RabbitBus]:
    bus = RabbitBus(url, shards=1, name="test")
    try:
        await until(lambda: _true(bus.connected))
        yield bus
    finally:
        await bus.close()


async def park(bus: RabbitBus, url: str, *events: Encoded) -> None:
    """Publish events, and have each refused by a consumer, as RabbitMQ itself does at the delivery limit."""
    async with await aio_pika.connect(url) as connection:
        channel, refused = await connection.channel(), 0

        async def refuse(message: AbstractIncomingMessage) -> None:
            nonlocal refused
            await message.reject()
            refused += 1

        await (await channel.get_queue(queue_of(0))).consume(refuse)
        for event in events:
            await bus.publish(event)
        await until(lambda: _true(refused == len(events)))
        await until(lambda: _depth(url, len(events)))


async def _depth(url: str, wanted: int) -> bool:
    async with await aio_pika.connect(url) as connection:
        queue = await (await connection.channel()).declare_queue(PARKED_QUEUE, passive=True)
        return queue.declaration_result.message_count == wanted


async def _true(value: object) -> bool:
    return bool(value)


@contextlib.asynccontextmanager
async def consuming_ids(bus: RabbitBus, taken: list[str]) -> AsyncIterator[None]:
    async def take(messages: Sequence[Message]) -> None:
        taken.extend(event["id"] for message in messages for event in json.loads(message.body))

    task = asyncio.create_task(bus.consume(0, take))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_operator_lists_shows_and_requeues_what_is_parked(
    broker_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    events, taken = [usage(), usage()], list[str]()
    async with bus_at(broker_url) as bus:
        await park(bus, broker_url, *(Encoded.of(event, "test") for event in events))
        rows = await listed(capsys)
        assert [(row["queue"], row["reason"], row["events"]) for row in rows] == [(queue_of(0), "rejected", 1)] * 2

        header, first, second = (await Terminal(dict(os.environ)).ok("parked list")).splitlines()
        assert header.split() == ["id", "queue", "reason", "parked_at", "events", "bytes"]
        assert [first.split()[0], second.split()[0]] == [row["id"] for row in rows], "looking changes nothing"

        message = await shown(rows[1]["id"], capsys)
        assert message["reason"] == "rejected"
        assert [event["request_id"] for event in message["events"]] == [events[1].request_id]

        async with consuming_ids(bus, taken):
            await asyncio.to_thread(parked.requeue, rows[1]["id"])
            await until(lambda: _true(taken == [events[1].request_id]))
            await until(lambda: _depth(broker_url, 1))
            await asyncio.to_thread(parked.requeue, every=True)
            await until(lambda: _true(taken == [events[1].request_id, events[0].request_id]))
    await until(lambda: _depth(broker_url, 0))


async def test_what_was_looked_at_a_hundred_times_is_still_there(broker_url: str) -> None:
    """RabbitMQ 4 would drop it at the 21st look, if the queue did not say otherwise."""
    async with bus_at(broker_url) as bus:
        await park(bus, broker_url, Encoded.of(usage(), "test"))
        for _ in range(100):
            async with parking(broker_url) as lot:
                assert len(lot.messages) == 1


async def test_what_its_shard_does_not_take_stays_parked(broker_url: str) -> None:
    async with bus_at(broker_url) as bus:
        await park(bus, broker_url, Encoded.of(usage(), "test"))
        async with await aio_pika.connect(broker_url) as connection:
            await (await connection.channel()).queue_delete(queue_of(0))
        with pytest.raises(Failed, match=r"was not taken by billing\.usage\.0"):
            await asyncio.to_thread(parked.requeue, every=True)
    await until(lambda: _depth(broker_url, 1))


async def test_what_is_no_usage_or_was_put_there_by_hand_is_shown_and_stays(
    broker_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with bus_at(broker_url), await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(aio_pika.Message(b"\xff not JSON"), PARKED_QUEUE)
        (row,) = await listed(capsys)
        assert "not JSON" in (await shown(row["id"], capsys))["events"][0]["refused"]
        with pytest.raises(Failed, match="no x-death"):
            await asyncio.to_thread(parked.requeue, row["id"])
        with pytest.raises(Failed, match='no message "nothing" is parked'):
            await asyncio.to_thread(parked.show_one, "nothing")
    await until(lambda: _depth(broker_url, 1))


@pytest.mark.parametrize("choice", [{}, {"id_": "cafe", "every": True}])
def test_to_send_again_an_operator_says_which_or_all(choice: dict[str, Any]) -> None:
    with pytest.raises(Failed, match="say which message, or --all"):
        parked.requeue(**choice)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "set OPENTOKEN_BROKER_URL"),
        ("amqp://guest:guest@127.0.0.1:1/", "Connect call failed"),
        (None, "no queue 'billing.parked'"),
    ],
)
async def test_without_a_broker_that_serves_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, url: str | None, said: str
) -> None:
    if url is not None:
        monkeypatch.setenv("OPENTOKEN_BROKER_URL", url)
    with pytest.raises(Failed, match=said):
        await asyncio.to_thread(parked.list_)
