"""What the services declare is what the definitions file brings, and each service gets by with its own rights."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import pytest
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from shared.bus import connect
from shared.bus.rabbit import check, connected
from shared.bus.topology import (
    ACCOUNTS_EXCHANGE,
    RIGHTS,
    SHARD_ARGUMENTS,
    TopologyError,
    declare,
    definitions,
)
from shared.events import PARKED_QUEUE, USAGE_EXCHANGE, queue_of
from tests import servers
from tests.servers import Server, manage
from tests.unit.shared import broker
from tests.unit.shared.broker import Taker, consuming, until
from tests.unit.shared.events import numbered

PASSWORD = "only-for-this-test"


def vhost_of(url: str) -> str:
    return urlsplit(url).path[1:]


def as_user(url: str, name: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{name}:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()


def imported(server: Server, vhost: str, shards: int = 1) -> None:
    """The definitions, without the users: those are the whole broker's."""
    made = definitions(shards)
    content = {kind: made[kind] for kind in ("exchanges", "queues", "bindings")}
    manage(server, "POST", f"/api/definitions/{vhost}", content)


@pytest.fixture
def users(rabbitmq_server: Server, broker_url: str) -> Iterator[dict[str, str]]:
    """A user of this test's own for each service, with the rights that the definitions give it: the URL by name."""
    vhost = vhost_of(broker_url)
    names = {name: f"{name}-{vhost}" for name in RIGHTS}
    for given in definitions(1)["permissions"]:
        user = names[given["user"]]
        manage(rabbitmq_server, "PUT", f"/api/users/{user}", {"password": PASSWORD, "tags": ""})
        rights = {kind: given[kind] for kind in ("configure", "write", "read")}
        manage(rabbitmq_server, "PUT", f"/api/permissions/{vhost}/{user}", rights)
    yield {name: as_user(broker_url, user) for name, user in names.items()}
    for user in names.values():
        manage(rabbitmq_server, "DELETE", f"/api/users/{user}")


def topology(server: Server, vhost: str) -> dict[str, Any]:
    found = manage(server, "GET", f"/api/definitions/{vhost}")
    return {kind: sorted(map(str, found[kind])) for kind in ("exchanges", "queues", "bindings")}


async def test_the_definitions_file_brings_what_the_services_declare(rabbitmq_server: Server, broker_url: str) -> None:
    async with connected(broker_url, "test") as connection:
        await declare(connection, 3)
    with servers.vhost(rabbitmq_server) as other:
        imported(rabbitmq_server, vhost_of(other), 3)
        assert topology(rabbitmq_server, vhost_of(other)) == topology(rabbitmq_server, vhost_of(broker_url))
    assert len(topology(rabbitmq_server, vhost_of(broker_url))["queues"]) == 4


async def test_the_whole_definitions_file_is_accepted_by_a_broker_and_nobody_can_log_in_yet(
    rabbitmq_server: Server, broker_url: str
) -> None:
    vhost = vhost_of(broker_url)
    content = definitions(2)
    for kind in ("exchanges", "queues", "bindings", "permissions"):
        for one in content[kind]:
            one["vhost"] = vhost
    content["vhosts"] = [{"name": vhost}]
    manage(rabbitmq_server, "POST", "/api/definitions", content)
    try:
        with pytest.raises(CONNECTION_EXCEPTIONS):
            async with connected(as_user(broker_url, "opentoken-edge").replace(PASSWORD, ""), "test"):
                pass
        assert len(topology(rabbitmq_server, vhost)["bindings"]) == 2
    finally:
        for user in RIGHTS:
            manage(rabbitmq_server, "DELETE", f"/api/users/{user}")


async def test_each_service_gets_by_with_the_rights_of_the_definitions_file(
    rabbitmq_server: Server, broker_url: str, users: dict[str, str]
) -> None:
    imported(rabbitmq_server, vhost_of(broker_url))
    taker = Taker()
    async with contextlib.AsyncExitStack() as stack:
        edge, worker, billing = [
            await stack.enter_async_context(broker.connected(users[f"opentoken-{name}"]))
            for name in ("edge", "worker", "billing")
        ]
        await stack.enter_async_context(consuming(billing, taker.take))
        await edge.publish(numbered(1))
        await worker.publish(numbered(2))
        await until(lambda: sorted(taker.taken) == [1, 2])


async def test_an_edge_may_make_and_read_its_own_queue_of_changed_accounts(
    rabbitmq_server: Server, broker_url: str, users: dict[str, str]
) -> None:
    imported(rabbitmq_server, vhost_of(broker_url))
    arrived = asyncio.Queue[Any]()
    async with (
        connected(users["opentoken-edge"], "edge") as edge,
        connected(users["opentoken-billing"], "b") as billing,
    ):
        channel = await edge.channel()
        queue = await channel.declare_queue("accounts.edge.1", exclusive=True, auto_delete=True)
        await queue.bind(ACCOUNTS_EXCHANGE)
        await queue.consume(arrived.put)
        announcing = await (await billing.channel()).get_exchange(ACCOUNTS_EXCHANGE, ensure=False)
        await announcing.publish(aio_pika.Message(b"changed"), "")
        assert (await asyncio.wait_for(arrived.get(), broker.DEADLINE_S)).body == b"changed"


@pytest.mark.parametrize("queue", [queue_of(0), PARKED_QUEUE])
@pytest.mark.parametrize("user", ["edge", "worker"])
async def test_nobody_but_billing_may_read_usage(
    rabbitmq_server: Server, broker_url: str, users: dict[str, str], user: str, queue: str
) -> None:
    imported(rabbitmq_server, vhost_of(broker_url))
    async with connected(users[f"opentoken-{user}"], user) as connection:
        wanted = await (await connection.channel()).get_queue(queue, ensure=False)
        with pytest.raises(CONNECTION_EXCEPTIONS, match="ACCESS_REFUSED"):
            await wanted.consume(print)  # type: ignore[arg-type]  # it is refused


async def test_billing_may_not_publish_usage(rabbitmq_server: Server, broker_url: str, users: dict[str, str]) -> None:
    imported(rabbitmq_server, vhost_of(broker_url))
    async with connected(users["opentoken-billing"], "billing") as connection:
        usage = await (await connection.channel()).get_exchange(USAGE_EXCHANGE, ensure=False)
        with pytest.raises(CONNECTION_EXCEPTIONS, match="ACCESS_REFUSED"):
            await usage.publish(aio_pika.Message(b"[]"), "usage.v1.0")


async def test_a_queue_with_other_arguments_is_an_error_that_names_both_and_says_what_to_do(broker_url: str) -> None:
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(
            queue_of(0), durable=True, arguments=dict(SHARD_ARGUMENTS) | {"x-delivery-limit": 3}
        )
    with pytest.raises(TopologyError) as raised:
        await check(broker_url, shards=1, name="test")
    told = str(raised.value)
    assert "inequivalent arg 'x-delivery-limit' for queue 'billing.usage.0'" in told
    assert "current is '3'" in told
    assert "'x-delivery-limit': 20" in told
    assert "delete it" in told


async def test_what_is_missing_and_may_not_be_made_is_an_error_that_says_what_to_import(
    broker_url: str, users: dict[str, str]
) -> None:
    with pytest.raises(TopologyError, match=r"no exchange 'usage'.*opentoken topology --shards 4"):
        await check(users["opentoken-worker"], shards=4, name="worker")


async def test_a_process_ends_at_once_where_the_topology_differs(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await aio_pika.connect(broker_url) as connection:
        await (await connection.channel()).declare_exchange(USAGE_EXCHANGE, "direct", durable=True)
    with pytest.raises(SystemExit, match=r"edge cannot start: the broker says .*'usage'.*a durable topic exchange"):
        await connect.require_topology(broker_url, shards=1, name="edge")


async def test_a_broker_that_is_away_keeps_no_process_from_starting() -> None:
    await connect.require_topology("amqp://guest:guest@127.0.0.1:1/", shards=1, name="edge")
    await connect.require_topology("local:", shards=1, name="edge")
