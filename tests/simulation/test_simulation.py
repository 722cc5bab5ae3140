"""The services over virtual time, among faults: whatever a seed brings, the books agree with what the clients saw.

One seed again, with its trace: `pytest tests/simulation --seed N`.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.simulation import faults
from tests.simulation.ledgers import Database, database
from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.oracle import violations
from tests.simulation.virtual import machine
from tests.simulation.world import World

SEEDS, BLOCK = 1000, 100
MOST_FOR_A_MUTATION = 300  # seeds; each of the broken rules is caught by one of the first few dozen
MEMORY = Path("/dev/shm")  # where there is one, a disk that is written without waiting


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to: what was broken, its last events, and a digest of all of them."""

    seed: int
    violations: list[str]
    trace: list[str]
    digest: int

    def __str__(self) -> str:
        return "\n".join([f"seed {self.seed}", *self.trace, "", *self.violations])


class Simulation:
    """Runs, one after another, each by its seed."""

    def __init__(self, folder: Path, ledger: Database) -> None:
        self._folder, self._ledger = folder, ledger

    def run(self, seed: int, kinds: Sequence[faults.Fault] = faults.FAULTS) -> Outcome:
        """A run, and its judgement."""
        self._ledger.reset()
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            world = World(seed, Path(folder))
            try:
                world.run(partial(faults.some, kinds=kinds))
                found = violations(world, self._ledger.read())
            except TimeoutError:
                found = ["it does not come to rest"]
            finally:
                world.close()
        return Outcome(seed, found, list(world.loop.trace), world.loop.digest)


@pytest.fixture(scope="module")
def simulation() -> Iterator[Simulation]:
    place = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=place) as folder,
        database(Path(folder)) as ledger,
        machine(ledger.engine),
    ):
        yield Simulation(Path(folder), ledger)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" in metafunc.fixturenames:
        seed = metafunc.config.getoption("--seed")
        blocks = [range(first, first + BLOCK) for first in range(0, SEEDS, BLOCK)] if seed is None else [(seed,)]
        metafunc.parametrize("seeds", blocks, ids=lambda block: f"{block[0]}-{block[-1]}")


def test_the_books_agree_with_what_the_clients_saw_whatever_fails(simulation: Simulation, seeds: Sequence[int]) -> None:
    for seed in seeds:
        outcome = simulation.run(seed)
        assert not outcome.violations, str(outcome)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.breaks.__name__)
def test_a_broken_rule_is_caught_by_some_seed(simulation: Simulation, mutation: Mutation) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutation.breaks(patch)
        broken = (simulation.run(seed, mutation.under) for seed in range(MOST_FOR_A_MUTATION))
        assert any(outcome.violations for outcome in broken)


def test_a_seed_reproduces_its_run_to_the_last_event(simulation: Simulation) -> None:
    for seed in range(5):
        assert simulation.run(seed) == simulation.run(seed)
