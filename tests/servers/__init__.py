"""Real PostgreSQL and RabbitMQ for the tests, wherever they run.

In this order: the URL in OPENTOKEN_TEST_DATABASE_URL or OPENTOKEN_TEST_BROKER_URL; a container, where a Docker engine
answers; a private instance of this machine's packages, on ports of its own, which ends with the tests.
"""

import contextlib
import os
from collections.abc import Iterator

from tests.servers import containers, postgres, rabbitmq
from tests.servers.postgres import database
from tests.servers.rabbitmq import manage, vhost
from tests.servers.server import Server, Unavailable

__all__ = ["Server", "Unavailable", "database", "manage", "postgres_server", "rabbitmq_server", "vhost"]


@contextlib.contextmanager
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL for the length of the block. Raises Unavailable."""
    if url := os.environ.get("OPENTOKEN_TEST_DATABASE_URL"):
        yield postgres.given(url)
        return
    with containers.postgres() if containers.available(containers.POSTGRES) else postgres.private() as server:
        yield server


@contextlib.contextmanager
def rabbitmq_server() -> Iterator[Server]:
    """A RabbitMQ for the length of the block. Raises Unavailable."""
    if url := os.environ.get("OPENTOKEN_TEST_BROKER_URL"):
        yield rabbitmq.given(url, os.environ.get("OPENTOKEN_TEST_MANAGEMENT_URL"))
        return
    with containers.rabbitmq() if containers.available(containers.RABBITMQ) else rabbitmq.private() as server:
        yield server
