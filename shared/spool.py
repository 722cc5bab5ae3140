"""The spool: where usage waits, on this process's own disk, while the broker is away.

SQLite in WAL mode with synchronous=FULL: an append returns after its commit is on the disk, and a torn tail is
SQLite's to repair. Appends that arrive together share one commit. Bounded by bytes; full means 503, never loss.
"""

import asyncio
import contextlib
import fcntl
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, time
from typing import ParamSpec, TextIO, TypeVar

from prometheus_client import Gauge

from shared.bus.packing import Packer
from shared.events import MAX_BATCH_EVENTS, Encoded

P = ParamSpec("P")
T = TypeVar("T")

DISK_PAUSE_S = 5.0  # after the disk failed no work is started for this long; then one answer finds out

EVENTS = Gauge("opentoken_spool_events", "Usage events that wait in a spool.", ["spool"])
BYTES = Gauge("opentoken_spool_bytes", "Bytes of the usage events that wait in a spool.", ["spool"])
AGE = Gauge("opentoken_spool_oldest_age_seconds", "Age of what waits longest in a spool; 0 if nothing does.", ["spool"])

_TABLE = """
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY AUTOINCREMENT, workspace_id TEXT NOT NULL, body BLOB NOT NULL, appended_at REAL NOT NULL
) STRICT
"""


class SpoolFull(Exception):
    """The spool holds as many bytes as it may."""


class Spool:
    """A durable queue of encoded events; all its SQLite work happens on one thread of its own."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._thread = ThreadPoolExecutor(1, "spool")
        self._packer = Packer(self._append, in_flight=1)
        self._name = folder.name
        self._events = self._bytes = 0
        self._oldest_at: float | None = None
        self._failed_until = 0.0

    async def open(self) -> None:
        """Open or make the file; what an earlier process left is kept. Processes may share a folder."""
        await self._run(self._open)
        EVENTS.labels(self._name).set_function(lambda: self._events)
        BYTES.labels(self._name).set_function(lambda: self._bytes)
        AGE.labels(self._name).set_function(lambda: self.oldest_age_s)

    async def append(self, event: Encoded) -> None:
        """Return once the event is on the disk. Raises SpoolFull."""
        self._require_room()
        await self._packer.put(event.workspace_id.encode() + b"\0" + event.body)

    @property
    def full(self) -> bool:
        """Whether no more should be started whose usage would come here: no bytes left, or a disk that just failed."""
        return self._bytes >= self._max_bytes or self.failing

    @property
    def failing(self) -> bool:
        """Whether the disk has just failed."""
        return monotonic() < self._failed_until

    @property
    def size_bytes(self) -> int:
        """Bytes of events waiting."""
        return self._bytes

    @property
    def percent_full(self) -> int:
        """How much of its bytes is used."""
        return 100 * self._bytes // self._max_bytes if self._max_bytes else 0

    @property
    def oldest_age_s(self) -> float:
        """For how long the oldest event has been waiting; by the wall clock, since it may outlive its process."""
        return 0.0 if self._oldest_at is None else max(0.0, time() - self._oldest_at)

    async def oldest(self) -> list[tuple[int, Encoded]]:
        """The oldest events waiting, with their places."""
        return await self._run(self._oldest)

    async def remove(self, places: Sequence[int]) -> None:
        """Forget events that were published."""
        await self._run(self._remove, places)

    async def close(self) -> None:
        """Finish the appends under way and close the file."""
        await self._packer.drain()
        for gauge in (EVENTS, BYTES, AGE):
            gauge.remove(self._name)
        await self._run(self._database.close)
        self._lock.close()
        self._thread.shutdown()

    async def _run(self, function: Callable[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _open(self) -> None:
        place, self._lock = _taken(self._folder)
        self._database = sqlite3.connect(place / "spool.db", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute(_TABLE)
        self._events, self._bytes, self._oldest_at = self._database.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0), min(appended_at) FROM event"
        ).fetchone()

    async def _append(self, items: Sequence[bytes]) -> None:
        try:
            await self._run(self._write, [item.split(b"\0", 1) for item in items])
        except sqlite3.Error:
            self._failed_until = monotonic() + DISK_PAUSE_S
            raise
        self._failed_until = 0.0

    def _require_room(self) -> None:
        if self._bytes >= self._max_bytes:
            raise SpoolFull(f"{self._folder} holds {self._max_bytes} bytes")

    def _write(self, rows: list[list[bytes]]) -> None:
        self._require_room()  # once more: batches that waited together may have filled it
        now = time()
        with self._transaction():
            self._database.executemany(
                "INSERT INTO event (workspace_id, body, appended_at) VALUES (?, ?, ?)",
                [(name.decode(), body, now) for name, body in rows],
            )
        self._events += len(rows)
        self._bytes += sum(len(body) for _, body in rows)
        self._oldest_at = self._oldest_at or now

    def _oldest(self) -> list[tuple[int, Encoded]]:
        rows = self._database.execute(
            "SELECT id, workspace_id, body FROM event ORDER BY id LIMIT ?", (MAX_BATCH_EVENTS,)
        ).fetchall()
        return [(place, Encoded(name, body)) for place, name, body in rows]

    def _remove(self, places: Sequence[int]) -> None:
        ask = self._database.execute
        with self._transaction():
            sizes = [ask("DELETE FROM event WHERE id = ? RETURNING length(body)", (id_,)).fetchone() for id_ in places]
        self._events -= len(sizes)
        self._bytes -= sum(size for (size,) in sizes)
        first = ask("SELECT appended_at FROM event ORDER BY id LIMIT 1").fetchone()
        self._oldest_at = first and first[0]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # a full disk may have ended it already
                self._database.execute("ROLLBACK")
            raise


def _taken(folder: Path) -> tuple[Path, TextIO]:
    """The first place in a folder that no process that runs has taken, and its lock, held until that is closed or the
    process ends. Two processes must not have one spool: each would publish, and count, what the other takes out.
    """
    number = 1
    while True:  # no more often than there are processes that share the folder, as containers may share a volume
        place = folder if number == 1 else folder / str(number)
        place.mkdir(parents=True, exist_ok=True)
        lock = (place / "spool.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            number += 1
        else:
            return place, lock
