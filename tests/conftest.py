"""Fixtures that every test can ask for. Servers start when the first test asks, so unit tests start none."""

from collections.abc import Iterator

import hypothesis
import pytest

from tests import servers
from tests.servers import Server

SERVERS_USED = pytest.StashKey[list[str]]()

APART = {
    "long": "takes minutes: `make test-long`",
    "faults": "kills servers or services at the worst moment: `make test-faults`",
    "chaos": "kills parts of the whole system at random, under load: `make chaos`",
}

LEDGER = ("tests/unit/billing/", "tests/integration/billing/", "tests/unit/shared/test_money.py")

hypothesis.settings.register_profile("ci", max_examples=50, derandomize=True, deadline=None, database=None)
# What the ledger's properties are said to hold for; drawn anew at each run, hence without a database of earlier ones.
hypothesis.settings.register_profile("long", max_examples=10_000, deadline=None, database=None)
hypothesis.settings.load_profile("ci")  # `--hypothesis-profile` has the last word


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The PostgreSQL of this run."""
    with servers.postgres_server() as server:
        pytestconfig.stash[SERVERS_USED].append(str(server))
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The RabbitMQ of this run."""
    with servers.rabbitmq_server() as server:
        pytestconfig.stash[SERVERS_USED].append(str(server))
        yield server


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """The SQLAlchemy URL, `postgresql+psycopg://…`, of an empty database that only this test uses."""
    with servers.database(postgres_server) as url:
        yield url


@pytest.fixture
def broker_url(rabbitmq_server: Server) -> Iterator[str]:
    """The URL, `amqp://…/vhost`, of an empty virtual host that only this test uses."""
    with servers.vhost(rabbitmq_server) as url:
        yield url


@pytest.fixture
def own_broker() -> Iterator[tuple[Server, str]]:
    """A broker that only this test uses, so that killing it hurts nobody else, and the URL of a virtual host there."""
    with servers.rabbitmq_server() as server, servers.vhost(server) as url:
        if server.life is None:
            pytest.skip("this broker is not ours to kill")
        yield server, url


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SERVERS_USED] = []
    for mark, meaning in APART.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, so that `-m 'not servers'` holds without anyone's care.

    Under the profile `long` every property of the ledger is a long test, because of its many examples.
    """
    many = hypothesis.settings.get_current_profile_name() == "long"
    for item in items:
        if many and item.nodeid.startswith(LEDGER) and hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("long")
        if {"postgres_server", "rabbitmq_server"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("servers")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if used := config.stash[SERVERS_USED]:
        terminalreporter.write_line(f"servers: {', '.join(used)}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="run the simulation of this seed alone (tests/simulation)")
