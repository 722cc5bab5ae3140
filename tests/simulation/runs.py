"""Runs of the simulation, one after another, each judged; and many seeds over all cores."""

import contextlib
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.simulation import faults
from tests.simulation.ledgers import Database, database
from tests.simulation.oracle import violations
from tests.simulation.virtual import machine
from tests.simulation.world import World

CORES = 2  # of the smallest machine that runs the tests
BLOCK = 125  # seeds that one process judges before it takes others; each block begins with a new ledger
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
    """Runs, each by its seed."""

    def __init__(self, folder: Path, ledger: Database) -> None:
        self._folder, self._ledger = folder, ledger

    def run(self, seed: int, kinds: Sequence[faults.Fault] = faults.FAULTS) -> Outcome:
        """A run, and its judgement."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            world = World(seed, Path(folder))
            self._ledger.reset(poor=world.poor)
            try:
                world.run(partial(faults.some, kinds=kinds))
                found = violations(world, self._ledger.read())
            except TimeoutError:
                found = ["it does not come to rest"]
            finally:
                world.close()
        return Outcome(seed, found, list(world.loop.trace), world.loop.digest)


@contextlib.contextmanager
def simulation() -> Iterator[Simulation]:
    """For the length of the block, this process lives in virtual time."""
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder, database(Path(folder)) as ledger, machine(ledger.engine):
        yield Simulation(Path(folder), ledger)


def broken(seeds: Sequence[int]) -> list[Outcome]:
    """The runs of these seeds that broke something."""
    with simulation() as simulated:
        return [outcome for outcome in map(simulated.run, seeds) if outcome.violations]


def broken_of_many(seeds: range) -> Iterator[Outcome]:
    """The same, by processes of their own."""
    blocks = [seeds[first : first + BLOCK] for first in range(0, len(seeds), BLOCK)]
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(broken, blocks):
            yield from found
