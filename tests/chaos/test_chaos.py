"""Chaos: the whole of OpenToken under a steady load while everything in it is killed, and the books are exact."""

import contextlib
import os
import random
import sys

import pytest

from tests.chaos.copier import Copier
from tests.chaos.reaper import Reaper
from tests.chaos.report import Report
from tests.faults import cluster as clusters
from tests.faults.books import compare
from tests.faults.witness import calling

MINUTES = float(os.environ.get("CHAOS_MINUTES") or 10)
SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1_000_000))
CALLS_PER_S = 30.0
LEAVING = 20  # every so-manieth client leaves in the middle
KILLS_A_MINUTE = 30
CONFLICTS = "SELECT count(*) FROM conflict"


@pytest.mark.chaos
def test_minutes_of_chaos_leave_exact_books(capsys: pytest.CaptureFixture[str]) -> None:
    report = _chaos(MINUTES * 60, capsys)
    report.assert_exact()
    assert report.kills.total() >= KILLS_A_MINUTE * MINUTES


def test_a_minute_of_chaos_leaves_exact_books(capsys: pytest.CaptureFixture[str]) -> None:
    _chaos(60, capsys).assert_exact()


def _chaos(seconds: float, capsys: pytest.CaptureFixture[str]) -> Report:
    """Let everything die for so long, heal it, let it come to rest, and print what was found."""
    with clusters.running(edges=2, billings=2) as cluster:
        account, reaper, copier = cluster.account(), Reaper(cluster, SEED), Copier(cluster.broker.url, SEED)
        with contextlib.closing(copier), calling(cluster, account, per_s=CALLS_PER_S, leaving=LEAVING) as witness:
            witness.wait_for(20)
            reaper.reap(seconds)
            reaper.heal()
        report = Report(
            title=f"\n{seconds:g} s of chaos at {CALLS_PER_S:g} calls/s; to have it again: CHAOS_SEED={SEED}",
            kills=reaper.kills,
            stops=reaper.stops,
            cuts=reaper.cuts,
            ends=reaper.ends,
            calls=len(witness.calls),
            failures=witness.failures(),
            books=compare(cluster, account, witness),
            copied=copier.copied,
            malformed=copier.malformed,
            quarantined=cluster.quarantined(),
            parked=cluster.parked(),
            conflicts=cluster.sql(CONFLICTS),
            verified=cluster.verify(),
        )
    with capsys.disabled():
        sys.stdout.write(report.table())
    return report
