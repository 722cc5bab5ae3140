"""One cluster for all rows of the crash matrix: starting it takes longer than a crash."""

from collections.abc import Iterator

import pytest

from tests.faults import cluster as clusters
from tests.faults.cluster import Cluster

STANDBY = "billing-2"


@pytest.fixture(scope="session")
def started() -> Iterator[Cluster]:
    with clusters.running(billings=2) as cluster:
        yield cluster


@pytest.fixture
def cluster(started: Cluster) -> Cluster:
    """A running cluster, whatever the test before did to it; the second billing runs only where a test starts it."""
    started.restore(but=STANDBY)
    return started
