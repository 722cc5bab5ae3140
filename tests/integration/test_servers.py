"""The test servers are held to what the other tests rest on: nothing shared, nothing lost, nothing left behind."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import psycopg
import pytest

from shared.bus.rabbit import connected
from tests import servers
from tests.servers import Server, Unavailable

DEADLINE_S = 30.0
TABLES = "SELECT count(*) FROM information_schema.tables WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"

# RabbitMQ writes down which quorum queues it has half a second late, and nothing tells when. A queue that is younger
# when the broker is killed never answers again, whatever it had confirmed (seen with 3.10 and 4.0).
QUEUE_ON_DISK_S = 2.0

ABANDONED = """
import sys
from tests.servers import postgres
with postgres.private() as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


async def connect(url: str) -> None:
    async with connected(url, "test"):
        pass


async def put(url: str, queue: str, body: bytes) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, queue)


async def take(url: str, queue: str) -> bytes:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        message = await (await channel.declare_queue(queue, passive=True)).get(timeout=DEADLINE_S)
        assert message
        await message.ack()
        return message.body


@pytest.fixture(scope="module")
def other_postgres(postgres_server: Server) -> Iterator[Server]:
    """A second instance beside the run's own, which a test may kill."""
    if postgres_server.life is None:
        pytest.skip("a server from the environment is not ours to kill")
    with servers.postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def other_rabbitmq(rabbitmq_server: Server) -> Iterator[Server]:
    """A second instance beside the run's own, which a test may kill."""
    if rabbitmq_server.life is None:
        pytest.skip("a server from the environment is not ours to kill")
    with servers.rabbitmq_server() as server:
        yield server


def test_each_test_gets_an_empty_database_that_no_other_sees(postgres_server: Server, postgres_url: str) -> None:
    execute(postgres_url, "CREATE TABLE mine (id int)")
    with servers.database(postgres_server) as other:
        assert execute(other, TABLES) == [(0,)]
    assert execute(postgres_url, TABLES) == [(1,)]


def test_a_database_is_gone_after_its_test_even_with_a_connection_left_open(postgres_server: Server) -> None:
    with servers.database(postgres_server) as url:
        left_open = psycopg.connect(url.replace("+psycopg", ""))
    with left_open, pytest.raises(psycopg.OperationalError, match="does not exist"):
        execute(url, "SELECT 1")


def test_strings_sort_by_their_bytes_wherever_the_server_comes_from(postgres_url: str) -> None:
    assert execute(postgres_url, "SELECT s FROM (VALUES ('a'), ('B'), ('_')) AS v (s) ORDER BY s") == [
        ("B",), ("_",), ("a",),
    ]  # fmt: skip


async def test_each_test_gets_a_virtual_host_that_no_other_sees(rabbitmq_server: Server, broker_url: str) -> None:
    await put(broker_url, "usage", b"mine")
    with servers.vhost(rabbitmq_server) as other:
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await take(other, "usage")
        await put(other, "usage", b"another's")
    assert await take(broker_url, "usage") == b"mine"


async def test_a_virtual_host_is_gone_after_its_test(rabbitmq_server: Server) -> None:
    with servers.vhost(rabbitmq_server) as url:
        await put(url, "usage", b"left behind")
    with pytest.raises(aio_pika.exceptions.AMQPError):
        await connect(url)


def test_what_a_killed_postgres_had_committed_is_there_when_it_starts_again(other_postgres: Server) -> None:
    with servers.database(other_postgres) as url:
        execute(url, "CREATE TABLE ledger AS SELECT 42 AS amount_pico")
        before = other_postgres.pid
        other_postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            execute(url, "SELECT 1")
        other_postgres.start()
        assert execute(url, "SELECT amount_pico FROM ledger") == [(42,)]
        assert other_postgres.pid != before


def test_a_postgres_killed_amid_a_statement_starts_again(other_postgres: Server) -> None:
    with servers.database(other_postgres) as url:
        with contextlib.closing(psycopg.connect(url.replace("+psycopg", ""), autocommit=True)) as busy:
            busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 3000000)")  # about a second
            other_postgres.kill()
            other_postgres.start()
        assert execute(url, "SELECT 1") == [(1,)]


def test_a_stopped_postgres_starts_again_on_its_data(other_postgres: Server) -> None:
    with servers.database(other_postgres) as url:
        execute(url, "CREATE TABLE ledger AS SELECT 42 AS amount_pico")
        other_postgres.stop()
        other_postgres.start()
        assert execute(url, "SELECT amount_pico FROM ledger") == [(42,)]


async def test_what_a_killed_rabbitmq_had_confirmed_is_there_when_it_starts_again(other_rabbitmq: Server) -> None:
    with servers.vhost(other_rabbitmq) as url:
        await put(url, "usage", b"confirmed")
        await asyncio.sleep(QUEUE_ON_DISK_S)
        other_rabbitmq.kill()
        with pytest.raises(aio_pika.exceptions.AMQPConnectionError):
            await connect(url)
        other_rabbitmq.start()
        assert await take(url, "usage") == b"confirmed"


def test_nothing_is_left_of_a_private_server_when_the_test_run_is_killed() -> None:
    command = [sys.executable, "-c", ABANDONED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        url = run.stdout.readline().strip()
        data = Path(str(execute(url, "SHOW data_directory")[0][0]))
        assert data.exists()
        run.kill()
    deadline = time.monotonic() + DEADLINE_S
    while data.parent.exists():
        assert time.monotonic() < deadline, f"{data.parent} is left"
        time.sleep(0.05)
    with pytest.raises(psycopg.OperationalError, match="refused"):
        execute(url, "SELECT 1")


def test_a_database_url_in_the_environment_comes_first_and_is_not_ours_to_kill(
    postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENTOKEN_TEST_DATABASE_URL", postgres_server.url.replace("+psycopg", ""))
    with servers.postgres_server() as given, servers.database(given) as url:
        assert (given.source, given.version) == ("environment", postgres_server.version)
        assert execute(url, TABLES) == [(0,)]
        with pytest.raises(Unavailable, match="not ours to stop"):
            given.kill()


async def test_a_broker_url_in_the_environment_comes_first(
    rabbitmq_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENTOKEN_TEST_BROKER_URL", rabbitmq_server.url)
    monkeypatch.setenv("OPENTOKEN_TEST_MANAGEMENT_URL", rabbitmq_server.admin_url)
    with servers.rabbitmq_server() as given, servers.vhost(given) as url:
        assert given.source == "environment"
        await put(url, "usage", b"mine")


def test_a_given_broker_without_a_management_api_is_refused_with_what_to_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENTOKEN_TEST_BROKER_URL", "amqp://guest:guest@127.0.0.1:1/")
    monkeypatch.setenv("OPENTOKEN_TEST_MANAGEMENT_URL", "http://guest:guest@127.0.0.1:1")
    with pytest.raises(Unavailable, match="rabbitmq_management"), servers.rabbitmq_server():
        pass
