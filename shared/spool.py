"""The spool: where usage waits, on this process's own disk, while the broker is away; and the outbox in front of both.

SQLite in WAL mode with synchronous=FULL: an append returns after its commit is on the disk, and a torn tail is
SQLite's to repair. Appends that arrive together share one commit. Bounded by bytes; full means 503, never loss.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, time
from typing import ParamSpec, TypeVar

import structlog
from prometheus_client import Gauge

from shared.bus import Bus, BusError
from shared.bus.packing import Packer
from shared.errors import BillingUnavailable
from shared.events import MAX_BATCH_EVENTS, Encoded
from shared.failpoints import passing

log = structlog.get_logger()
P = ParamSpec("P")
T = TypeVar("T")

BROKER_WAIT_S = 1.0  # an answer is held back this long for the broker's confirmation, then the spool takes over
DRAIN_PAUSE_S = 0.5  # between looks at a spool that is empty or cannot be drained
DISK_PAUSE_S = 5.0  # after the disk failed no work is started for this long; then one answer finds out
READY_PERCENT = 80  # of its bytes: fuller than this, a process asks to be left out while it can still take what comes
START_PERCENT = 90  # fuller than this, nothing is started: the rest is for what is under way, and thousands of events

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
        self._path, self._max_bytes = folder / "spool.db", max_bytes
        self._thread = ThreadPoolExecutor(1, "spool")
        self._packer = Packer(self._append, in_flight=1)
        self._name = folder.name
        self._events = self._bytes = 0
        self._oldest_at: float | None = None
        self._failed_until = 0.0

    async def open(self) -> None:
        """Open or make the file; what an earlier process left is kept."""
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
        self._thread.shutdown()

    async def _run(self, function: Callable[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(self._path, isolation_level=None)
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
            raise SpoolFull(f"{self._path} holds {self._max_bytes} bytes")

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


class Outbox:
    """Makes an event durable: confirmed by the bus, else in the spool, whichever comes first after a short wait."""

    def __init__(self, bus: Bus, spool: Spool | None) -> None:
        self._bus, self._spool = bus, spool
        self._drainer = asyncio.create_task(self._drain(spool)) if spool else None

    def check(self) -> None:
        """Refuse to start work whose usage could not be made durable. Raises BillingUnavailable.

        A broker that is connected may still not confirm: then there must be room for all that was started, or an answer
        would be refused at its end whose usage the broker has after all.
        """
        spool = self._spool
        durable = self._bus.connected or (spool is not None and not spool.full)
        if not durable or (spool is not None and (spool.failing or spool.percent_full >= START_PERCENT)):
            raise BillingUnavailable(headers={"Retry-After": "5"})

    def ready(self) -> None:
        """Refuse to be sent more work, while there is still room for what comes. Raises BillingUnavailable."""
        self.check()
        if self._spool is not None and self._spool.percent_full >= READY_PERCENT:
            raise BillingUnavailable(f"the spool is {self._spool.percent_full} % full: is the broker away?")

    async def put(self, event: Encoded) -> None:
        """Return once the event is durable. Raises BillingUnavailable where neither place takes it."""
        try:
            async with asyncio.timeout(BROKER_WAIT_S if self._spool else None):
                return await self._bus.publish(event)
        except (TimeoutError, BusError) as error:
            if self._spool is None:
                log.error("usage_not_durable", reason=str(error))
                raise BillingUnavailable(headers={"Retry-After": "5"}) from error
        try:
            await self._spool.append(event)
        except (SpoolFull, sqlite3.Error) as error:
            log.error("usage_not_durable", reason=str(error))
            raise BillingUnavailable(headers={"Retry-After": "5"}) from error

    async def close(self) -> None:
        """Publish what can still be published; the rest stays in the spool for the next start."""
        if self._drainer is not None:
            self._drainer.cancel()
            await asyncio.gather(self._drainer, return_exceptions=True)
        await self._bus.close()
        if self._spool is not None:
            await self._spool.close()

    async def _drain(self, spool: Spool) -> None:
        """Republish the oldest first, for ever, whatever the bus and the disk say meanwhile."""
        while True:
            republished = 0
            try:
                republished = await self._republish(spool)
            except (BusError, sqlite3.Error) as error:
                log.warning("spool_not_drained", reason=str(error))
            if not republished:
                await asyncio.sleep(DRAIN_PAUSE_S)

    async def _republish(self, spool: Spool) -> int:
        """Publish the oldest events, and how many; removal comes after the confirmation: a crash only duplicates."""
        waiting = await spool.oldest() if self._bus.connected else []
        answers = await asyncio.gather(*(self._bus.publish(event) for _, event in waiting), return_exceptions=True)
        published = [place for (place, _), answer in zip(waiting, answers, strict=True) if answer is None]
        if published:
            passing("spool.republished")
            await spool.remove(published)
            log.info("spool_drained", events=len(published), bytes_left=spool.size_bytes)
        for answer in answers:
            if answer is not None:
                raise answer
        return len(published)
