"""Disks and the database: what fails there, and what a crash leaves of what was being written.

A spool is a real SQLite file. Its dead owner's hands stay on the old one; the next process gets a copy, whose log may
be torn anywhere in what no one had been told was written.
"""

import random
import shutil
import sqlite3
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from sqlalchemy.exc import OperationalError

from tests.simulation.loop import Process, Threads

UNKNOWN = 0.05  # of the ledger's commits succeed, while its writer learns that the connection was lost
SOON = 5  # callbacks
CRASHES_WHILE_WRITING = 0.08  # of what is written: the moments on which everything depends


@dataclass(frozen=True, slots=True)
class Break:
    """The death of one process, or the cut of a connection of two."""

    at_s: float
    names: frozenset[str]


@dataclass
class Conditions:
    """What is wrong for now, and what has gone wrong at any time."""

    disk_full: bool = False
    database_away: bool = False
    crashes: bool = True
    disk_was_full: bool = False
    breaks: list[Break] = field(default_factory=list)


class Disk(Threads):
    """The disk of one process, which outlives it."""

    def __init__(self, conditions: Conditions, process: Process, rng: random.Random, home: Path) -> None:
        self.folder = home / "now"
        self._log = self.folder / "spool.db-wal"
        self._conditions, self._process, self._rng, self._home = conditions, process, rng, home
        self._written: tuple[int, int] | None = None  # sizes of the log before and after what is not yet known
        self.folder.mkdir(parents=True, exist_ok=True)

    def begin(self, thread: str) -> None:
        if self._conditions.disk_full:
            raise sqlite3.OperationalError("database or disk is full")
        self._written = self._log_bytes(), 0
        _crash_soon(self._conditions, self._process, self._rng)

    def done(self, thread: str) -> None:
        assert self._written is not None
        self._written = self._written[0], self._log_bytes()

    def known(self, thread: str) -> None:
        self._written = None

    def crashed(self) -> None:
        """Hand over what is on the disk."""
        left = self.folder.rename(next(one for n in count() if not (one := self._home / f"left-{n}").exists()))
        self.folder.mkdir()
        for file in sorted(left.iterdir()):
            if not file.name.endswith("-shm"):  # shared memory, not on the disk
                shutil.copy(file, self.folder)
        if self._written is not None and self._written[0] < self._written[1]:
            with self._log.open("r+b") as log:
                log.truncate(self._rng.randint(*self._written))

    def _log_bytes(self) -> int:
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0


class Database(Threads):
    """Billing's connection to the ledger."""

    def __init__(self, conditions: Conditions, process: Process, rng: random.Random) -> None:
        self._conditions, self._process, self._rng = conditions, process, rng

    def begin(self, thread: str) -> None:
        if self._conditions.database_away:
            raise OperationalError("the database is away", None, ConnectionError())
        _crash_soon(self._conditions, self._process, self._rng)

    def done(self, thread: str) -> None:
        if thread == "ledger-writer" and self._conditions.crashes and self._rng.random() < UNKNOWN:
            raise OperationalError("the connection was lost during the commit", None, ConnectionError())


def _crash_soon(conditions: Conditions, process: Process, rng: random.Random) -> None:
    """Perhaps crash at one of the next callbacks: before it is written, before that is known, before it is told."""
    if conditions.crashes and rng.random() < CRASHES_WHILE_WRITING:
        process.crash_at = process.steps + rng.randint(1, SOON)
