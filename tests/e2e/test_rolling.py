"""A rolling restart under load: every call is answered whole, and is on the books once."""

from collections.abc import Iterator, Sequence

import httpx2
import pytest

from tests.e2e import books, load, stacks
from tests.e2e.balancer import Edges
from tests.e2e.stacks import Stack
from tests.servers import Server

KINDS = ("worker-anthropic", "worker-google", "billing", "edge")
SLOW = "[[chunks=10 chunk_delay_ms=80]]"  # so that every restart finds answers under way


@pytest.fixture(scope="module")
def pairs(postgres_server: Server, rabbitmq_server: Server) -> Iterator[Stack]:
    """A stack with two of everything that nobody else uses."""
    with stacks.on_servers(postgres_server, rabbitmq_server, replicas=2) as stack:
        yield stack


def test_one_of_each_service_restarted_at_once_under_load_loses_no_request(pairs: Stack) -> None:
    restart_under_load(pairs, [KINDS])


@pytest.mark.faults
def test_all_services_restarted_one_after_another_under_load_lose_no_request(pairs: Stack) -> None:
    restart_under_load(pairs, [[kind + number] for kind in KINDS for number in ("", "-2")])


def restart_under_load(stack: Stack, groups: Sequence[Sequence[str]]) -> None:
    before = len(stack.records())
    with httpx2.Client(transport=Edges(stack.base_urls)) as client, load.running(stack, SLOW, client) as calls:
        calls.wait_for(10)
        for group in groups:
            restart(stack, group)
            calls.wait_for(10)
    assert calls.failures == []
    records = books.check(stack, calls.reads)
    assert len(records) - before == len(calls.reads)
    assert {record["outcome"] for record in records.values()} == {"completed"}
    for name in ("billing", "billing-2"):
        assert "usage_conflicts" not in stack.services[name].log()
        assert "usage_quarantined" not in stack.services[name].log()


def restart(stack: Stack, names: Sequence[str]) -> None:
    """End these services in order, all at the same time, and start them again."""
    services = [stack.services[name] for name in names]
    for service in services:
        service.told_to_stop()
    for service in services:
        assert service.exit_code() == 0, service.log()
        service.process.start()
    for service in services:
        service.wait_until_ready()
