"""The services over virtual time, among faults: whatever a seed brings, the books agree with what the clients saw.

One seed again, with its trace: `pytest tests/simulation --seed N`.
"""

from collections.abc import Iterator

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.runs import Simulation, broken, broken_of_many, simulation

SEEDS = range(1000)
MOST_FOR_A_MUTATION = 300  # seeds; each of the broken rules is caught by one of the first few dozen


@pytest.fixture(scope="module")
def simulated() -> Iterator[Simulation]:
    with simulation() as made:
        yield made


def test_the_books_agree_with_what_the_clients_saw_whatever_fails(pytestconfig: pytest.Config) -> None:
    seed: int | None = pytestconfig.getoption("--seed")
    found = broken_of_many(SEEDS) if seed is None else broken([seed])
    assert not (outcomes := list(found)), "\n\n".join(map(str, outcomes))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.breaks.__name__)
def test_a_broken_rule_is_caught_by_some_seed(simulated: Simulation, mutation: Mutation) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutation.breaks(patch)
        runs = (simulated.run(seed, mutation.under) for seed in range(MOST_FOR_A_MUTATION))
        assert any(outcome.violations for outcome in runs)


def test_a_seed_reproduces_its_run_to_the_last_event(simulated: Simulation) -> None:
    for seed in range(5):
        assert simulated.run(seed) == simulated.run(seed)
