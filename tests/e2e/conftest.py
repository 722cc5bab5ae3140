"""Each end-to-end test runs twice: on the embedded stack, and on separate processes over RabbitMQ and PostgreSQL."""

from collections.abc import Iterator

import pytest

from tests.e2e import stacks
from tests.e2e.stacks import Stack
from tests.servers import Server


@pytest.fixture(scope="session")
def local_stack() -> Iterator[Stack]:
    """One process on SQLite."""
    with stacks.local() as stack:
        yield stack


@pytest.fixture(scope="session")
def separate_stack(postgres_server: Server, rabbitmq_server: Server) -> Iterator[Stack]:
    """A process for each service, on real servers."""
    with stacks.on_servers(postgres_server, rabbitmq_server) as stack:
        yield stack


@pytest.fixture(params=["local", pytest.param("separate", marks=pytest.mark.servers)])
def stack(request: pytest.FixtureRequest) -> Stack:
    """A running OpenToken."""
    return request.getfixturevalue(f"{request.param}_stack")


@pytest.fixture
def _nothing_fails_inside(stack: Stack) -> Iterator[None]:
    """Whatever a client does, no service fails on it."""
    before = _failures(stack)
    yield
    assert _failures(stack) == before, "a service logged request_failed"


def _failures(stack: Stack) -> dict[str, int]:
    return {name: service.log().count("request_failed") for name, service in stack.services.items()}
