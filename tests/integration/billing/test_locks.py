"""What a writer on PostgreSQL does about another that has the lock it waits for."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import Engine, text

from services.billing import database
from services.billing.database import writing

SHARD = 3
LOCK = f"SELECT pg_advisory_xact_lock({SHARD})"


@pytest.fixture
def other(postgres_engine: Engine) -> Iterator[psycopg.Connection]:
    """Another writer, which has the lock."""
    url = postgres_engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg.connect(url)
    connection.execute(LOCK)
    yield connection
    connection.close()


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing at all hangs."""
    monkeypatch.setattr(database, "HUNG_S", 0)


def test_a_writer_that_hangs_in_a_copy_is_ended_by_the_next(postgres_engine: Engine, other: psycopg.Connection) -> None:
    other.pgconn.exec_(b"COPY workspace (id) FROM STDIN")
    with writing(postgres_engine, SHARD) as connection:
        assert connection.scalar(text("SELECT current_setting('lock_timeout')")) == "0"
    other.pgconn.put_copy_end()
    with pytest.raises(psycopg.OperationalError):
        other.execute("COMMIT")


def test_a_writer_that_is_at_work_is_waited_for(postgres_engine: Engine, other: psycopg.Connection) -> None:
    with ThreadPoolExecutor() as threads:
        work = threads.submit(other.execute, f"SELECT pg_sleep({database.LOOK_S + 1}); COMMIT")
        with writing(postgres_engine, SHARD):
            assert work.exception() is None


def test_a_server_that_vanished_is_noticed_within_seconds(postgres_engine: Engine) -> None:
    with postgres_engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with socket.socket(fileno=os.dup(driver.fileno())) as ours:
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
