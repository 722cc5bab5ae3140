"""The crash matrix of billing, row by row: each struck RUNS times on real processes, and the books compared.

What a row promises is the last lines of its test. `struck` holds of every row that clients are served before and
after, and that each whole answer is billed once, exactly, for what the provider served. One client calls at a time,
so that every crash has one victim.
"""

import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.e2e.stacks import Stack
from tests.faults.books import Books, compare
from tests.faults.cluster import WORKERS, Cluster
from tests.faults.poison import malformed
from tests.faults.witness import Witness, calling

pytestmark = pytest.mark.faults

RUNS = int(os.environ.get("FAULTS_RUNS") or 20)
EACH = RUNS // len(WORKERS)
SPOOL_MAX_BYTES, FEW_EVENTS_BYTES = "OPENTOKEN_SPOOL_MAX_BYTES", 5000  # an event has some 1,200
KEPT_ASIDE = """
SELECT count(*) FROM conflict JOIN usage_record USING (request_id) WHERE workspace_id = %s AND outcome = 'worker_lost'
"""


@dataclass
class Row:
    """A row under way; its books are there at its end."""

    account: Stack
    witness: Witness
    books: Books = field(init=False)

    def assert_unnoticed(self) -> None:
        """Every call got its whole answer, and nothing else is on the books."""
        assert self.witness.failures() == {}
        assert self.books.records == self.books.whole

    def booked(self) -> None:
        """Return when an answer of now is on the books."""
        self.witness.wait_for(2)
        self.account.settled(str(self.witness.whole[-1].request_id))


@contextlib.contextmanager
def struck(cluster: Cluster, clients: int = 1) -> Iterator[Row]:
    """Clients call while the block strikes; then the books have to be exact."""
    account = cluster.account()
    with calling(cluster, account, clients=clients) as witness:
        witness.wait_for(4)
        row = Row(account, witness)
        yield row
        witness.wait_for(4)
    row.books = compare(cluster, account, witness)
    row.books.assert_exact()


def kills(failpoint: str, runs: int = RUNS) -> list[str]:
    """So many kills at a failpoint, each at one of its first passages."""
    return [f"{failpoint}=kill@{random.randint(1, 6)}" for _ in range(runs)]


def test_edge_before_dispatch_nothing_is_billed(cluster: Cluster) -> None:
    with struck(cluster) as row:
        cluster.crashes("edge-1", *kills("edge.before_dispatch"))
    assert row.books.unseen == {}


def test_edge_mid_answer_the_worker_settles_what_the_client_left(cluster: Cluster) -> None:
    with struck(cluster) as row:
        cluster.crashes("edge-1", *kills("edge.mid_answer"))
    assert row.books.unseen.keys() <= {"client_disconnected", "completed"}  # completed: the end was at the edge already
    assert row.books.unseen.total() == RUNS


@pytest.mark.parametrize("worker", WORKERS)
def test_worker_before_the_first_byte_an_error_and_no_debit(cluster: Cluster, worker: str) -> None:
    with struck(cluster) as row:
        cluster.crashes(worker, *kills("worker.before_first_byte", EACH))
    assert row.books.unseen == {"worker_lost": EACH}
    assert row.witness.seen("broken", "nothing") == []


@pytest.mark.parametrize("worker", WORKERS)
def test_worker_after_the_first_byte_an_error_inside_the_stream_and_no_debit(cluster: Cluster, worker: str) -> None:
    with struck(cluster) as row:
        cluster.crashes(worker, *kills("worker.after_first_byte", EACH))
    assert row.books.unseen == {"worker_lost": EACH}
    assert len(row.witness.seen("broken")) == EACH


@pytest.mark.parametrize("worker", WORKERS)
def test_worker_after_the_event_is_durable_the_record_stands(cluster: Cluster, worker: str) -> None:
    with struck(cluster) as row:
        cluster.crashes(worker, *kills("worker.durable", EACH))
    # Where it was in the spool alone, the edge's word came first; then it is kept aside, for a person to look at.
    kept_aside = cluster.sql(KEPT_ASIDE, row.account.workspace)
    assert row.books.unseen == Counter(completed=EACH - kept_aside, worker_lost=kept_aside)


@contextlib.contextmanager
def small_spools(cluster: Cluster) -> Iterator[None]:
    """The workers with spools that a few events fill."""
    workers = [cluster.services[name] for name in WORKERS]
    for worker in workers:
        worker.process.stop()
        worker.env[SPOOL_MAX_BYTES] = str(FEW_EVENTS_BYTES)
        worker.start()
    yield
    for worker in workers:
        worker.process.stop()
        del worker.env[SPOOL_MAX_BYTES]
        worker.start()


def test_worker_with_a_full_spool_restarted_republishes_and_billing_drops_duplicates(cluster: Cluster) -> None:
    worker = cluster.services["worker-anthropic"]
    with small_spools(cluster), struck(cluster) as row:
        for _ in range(RUNS):
            cluster.link.cut()
            row.witness.wait_for(2, "refused")
            worker.process.kill()
            cluster.link.heal()
            cluster.start_armed("worker-anthropic", "spool.republished=kill")
            cluster.await_death("worker-anthropic")
            worker.start()
            row.witness.wait_for(4)
    assert row.books.unseen.keys() <= {"worker_lost", "completed"}  # what was under way when the worker was killed


def test_spool_full_503_before_anything_is_started(cluster: Cluster) -> None:
    served = cluster.served()
    with small_spools(cluster), struck(cluster) as row:
        for _ in range(RUNS):
            cluster.link.cut()
            row.witness.wait_for(4, "refused")
            cluster.link.heal()
            row.witness.wait_for(4)
            cluster.drain()
    assert row.witness.failures().keys() == {"refused billing_unavailable"}
    assert row.books.records == row.books.whole == cluster.served() - served


def test_broker_killed_answers_go_on_and_are_billed_after_its_return(cluster: Cluster) -> None:
    broker = cluster.broker.server
    _unnoticed(cluster, broker.kill, broker.start)


def test_broker_cut_off_answers_go_on_and_are_billed_after_its_return(cluster: Cluster) -> None:
    _unnoticed(cluster, cluster.link.cut, cluster.link.heal)


def test_broker_partitioned_answers_go_on_and_are_billed_after_its_return(cluster: Cluster) -> None:
    _unnoticed(cluster, cluster.link.freeze, cluster.link.heal)


def test_broker_partitioned_and_then_cut_off_what_was_unconfirmed_is_published_again(cluster: Cluster) -> None:
    def reconnect() -> None:
        cluster.link.cut()
        cluster.link.heal()

    _unnoticed(cluster, cluster.link.freeze, reconnect)


def test_broker_blocked_answers_go_on_and_are_billed_afterwards(cluster: Cluster) -> None:
    _unnoticed(cluster, cluster.broker.block, cluster.broker.unblock)


def test_database_killed_the_batch_is_retried_whole(cluster: Cluster) -> None:
    _unnoticed(cluster, cluster.postgres.kill, cluster.postgres.start)


def _unnoticed(cluster: Cluster, hurt: Callable[[], None], heal: Callable[[], None]) -> None:
    """No client notices, and all is billed."""
    with struck(cluster) as row:
        for _ in range(RUNS):
            hurt()
            row.witness.wait_for(random.randint(1, 4))
            heal()
            row.witness.wait_for(random.randint(1, 8))
    row.assert_unnoticed()


@pytest.mark.parametrize("failpoint", ["billing.before_commit", "billing.after_commit"])
def test_billing_killed_nothing_is_lost_and_nothing_doubled(cluster: Cluster, failpoint: str) -> None:
    with struck(cluster) as row:
        cluster.crashes("billing-1", *kills(failpoint))
    row.assert_unnoticed()


def test_two_consumers_at_once_the_lock_holds_and_the_second_reads_anew(cluster: Cluster) -> None:
    """The active one stops, every other time inside its transaction; the second takes over; then the first goes on."""
    with struck(cluster) as row:
        for run in range(RUNS):
            place = ("billing.received", "billing.before_commit")[run % 2]
            _stop_the_active_consumer(cluster, f"{place}=stop@{random.randint(1, 4)}")
            cluster.link.cut()  # or the broker would be patient with the one that is stopped
            cluster.link.heal()
            if run % 4 < 2:  # else both are at it together
                row.booked()
            _go_on_and_end(cluster, row)
    row.assert_unnoticed()


def test_a_consumer_that_hangs_in_its_transaction_holds_the_books_up_for_seconds_only(cluster: Cluster) -> None:
    with struck(cluster) as row:
        _stop_the_active_consumer(cluster, "billing.before_commit=stop")
        row.booked()
        _go_on_and_end(cluster, row)
    row.assert_unnoticed()


def _stop_the_active_consumer(cluster: Cluster, failpoint: str) -> None:
    """Make `billing-2` the consumer, let it stop, and `billing-1` stand by."""
    first, second = cluster.services["billing-2"], cluster.services["billing-1"]
    cluster.start_armed("billing-2", failpoint)
    first.wait_until_ready()
    second.process.kill()
    cluster.await_stop("billing-2")
    second.start()


def _go_on_and_end(cluster: Cluster, row: Row) -> None:
    """Let `billing-2` go on with what it had in hand, and kill it a moment later."""
    first = cluster.services["billing-2"].process
    os.kill(first.pid, signal.SIGCONT)
    row.booked()
    first.kill()


def test_poison_events_are_quarantined_and_the_rest_of_the_batch_commits(cluster: Cluster) -> None:
    before = cluster.quarantined()
    with struck(cluster, clients=4) as row:
        for number in range(RUNS):
            cluster.broker.publish(malformed(number))
            row.witness.wait_for(1)
    assert cluster.quarantined() - before == RUNS
    assert cluster.parked() == 0
    row.assert_unnoticed()
