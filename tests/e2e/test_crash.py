"""`kill -9` under load: what was read whole is on the books once, at its price, and nothing else costs anything."""

import random
from collections.abc import Iterator

import pytest

from tests.e2e import books, load, stacks
from tests.e2e.stacks import Stack, until
from tests.servers import Server

KILLS = 3
SLOW = "[[chunks=8 chunk_delay_ms=15]]"  # so that a kill finds answers under way


@pytest.fixture(scope="module")
def doomed(postgres_server: Server, rabbitmq_server: Server) -> Iterator[Stack]:
    """A stack of separate processes that nobody else uses."""
    with stacks.on_servers(postgres_server, rabbitmq_server) as stack:
        yield stack


def test_clients_do_not_notice_that_billing_is_killed_and_the_books_are_exact(doomed: Stack) -> None:
    billing = doomed.services["billing"]
    with load.running(doomed) as calls:
        for _ in range(KILLS):
            calls.wait_for(random.randint(10, 80))
            billing.process.kill()
            calls.wait_for(random.randint(5, 40))
            billing.start()
        calls.wait_for(20)
    assert calls.failures == []
    records = books.check(doomed, calls.reads)
    assert records.keys() == {read.id for read in calls.reads}
    assert books.unrecorded(doomed, records) == []
    assert len(records) > 100
    assert "usage_quarantined" not in billing.log()
    assert "usage_conflicts" not in billing.log()


def test_a_killed_worker_costs_nobody_anything_and_leaves_the_edge_standing(doomed: Stack) -> None:
    worker, edge = doomed.services["worker-anthropic"], doomed.services["edge"]
    with load.running(doomed, SLOW) as calls:
        for _ in range(KILLS):
            calls.wait_for(random.randint(5, 25))
            worker.process.kill()
            calls.wait_for(random.randint(1, 5))  # the other provider's answers go on
            worker.start()
        calls.wait_for(20)
    assert edge.process.failure() is None
    assert {failure.model for failure in calls.failures} == {"anthropic/claude-haiku-4-5"}
    known = {(None, None), (500, None), (503, "no_supplier")}
    assert {(failure.status, failure.code) for failure in calls.failures} <= known
    lost = {failure.id for failure in calls.failures if failure.status != 503}
    assert lost
    until(lambda: lost <= {record["id"] for record in doomed.records()}, "every lost call is on record")
    records = books.check(doomed, calls.reads)
    # A record that was durable just before the kill stands.
    assert {records[name]["outcome"] for name in lost} <= {"worker_lost", "completed"}
    free = [record for record in records.values() if record["outcome"] == "worker_lost"]
    assert free
    assert {record["cost_usd"] for record in free} == {"0"}
    books.unrecorded(doomed, records)
