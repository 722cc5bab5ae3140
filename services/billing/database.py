"""The database and the threads that talk to it: transactions that hold their locks, the same on both databases.

SQLAlchemy is used synchronously, because one writer needs no concurrency: one thread writes, a few read, and the
event loop waits for neither. On PostgreSQL the fence between processes is an advisory lock held to the end of the
transaction; on SQLite it is BEGIN IMMEDIATE, which admits one writer to the file.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, ParamSpec, TypeVar

import psycopg
import structlog
from psycopg.types.string import TextLoader
from sqlalchemy import Connection, Engine, Select, create_engine, event, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from services.billing.stages import stage
from services.billing.turns import computing

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")
Row = Mapping[str, Any]
"""Column names to values."""

READERS = 4  # for audits, which may be long; more threads would only wait for the same cores
PROMPT = 3  # for what requests and the books wait for: two batches being decoded, and who a key belongs to
CONNECT_TIMEOUT_S = 5  # a database that is away is told from one that is slow, before a probe's patience ends
BUSY_TIMEOUT_S = 30.0  # SQLite: how long to wait for another process's transaction, such as a backup's

# Advisory locks: from 0 on, one for each shard of the ledger.
ACCOUNTS_LOCK = -1
MIGRATION_LOCK = -2
LEASE_LOCKS = range(-64 - 2, -2)  # a workspace has one of them: few enough to be taken all, too many to often meet

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",  # readers do not wait for the writer
    "PRAGMA synchronous = FULL",  # committed means on the disk
    "PRAGMA foreign_keys = ON",
    "PRAGMA recursive_triggers = ON",  # else INSERT OR REPLACE deletes past the append-only triggers
)
LOOK_S = 2  # how often who waits for a lock looks at who has it
HUNG_S = 10  # a statement takes far less; about as long as the broker waits for a heartbeat

# For a writing transaction. A plan made, or statistics taken, while a table was empty must not make a look-up scan it
# for ever; foreign keys and the insert guard keep their plans for the whole session, so this holds before they make
# them. And a writer that hangs in its transaction would keep its locks, and with them the books, from whoever stands
# by: the database ends its session. It does not see that one hangs in a COPY, which to it is busy: whoever waits for
# the lock ends one that takes in nothing any more. Nothing is lost, because what was not committed is still with the
# bus.
_WRITING = f"""
SELECT set_config('enable_seqscan', 'off', true), set_config('lock_timeout', '{LOOK_S}s', true),
       set_config('idle_in_transaction_session_timeout', '{HUNG_S}s', true)
"""
_COPYING = """
SELECT pg_locks.pid, xact_start, bytes_processed
FROM pg_locks JOIN pg_stat_activity USING (pid) JOIN pg_stat_progress_copy USING (pid)
WHERE locktype = 'advisory' AND granted AND pg_locks.database = pg_stat_activity.datid
  AND pg_stat_activity.datname = current_database()
  AND (classid::bigint << 32 | objid::bigint) = ANY(:locks) AND wait_event_type = 'Client'
"""
# A server whose machine vanished sends nothing, not even an end: the system itself would wait for hours.
_GONE = {
    "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
    "tcp_user_timeout": HUNG_S * 1000,  # ms
}  # fmt: skip
_IMMEDIATE = "opentoken_immediate"


def connect(url: str) -> Engine:
    """An engine for `postgresql+psycopg://…` or `sqlite:///file`; nothing is opened yet."""
    if not url.startswith("sqlite"):
        engine = create_engine(
            url,
            isolation_level="READ COMMITTED",  # a writer must see what was committed while it waited for its lock
            pool_pre_ping=True,
            pool_size=READERS + PROMPT + 2,
            # Plans kept from when the tables were empty would scan them for ever (measured: 30 times slower).
            connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "prepare_threshold": None, **_GONE},
        )
        event.listen(engine, "connect", _read_ids_as_text)
        return engine
    engine = create_engine(url, pool_size=READERS + PROMPT + 2, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", begin_sqlite)
    return engine


def _read_ids_as_text(connection: psycopg.Connection[Any], _: object) -> None:
    """As they come, and as they are in rows: an object made of each, and text of that again, shows in an audit."""
    connection.adapters.register_loader("uuid", TextLoader)


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees the books as they were at one moment, whatever is committed meanwhile."""
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def writing(engine: Engine, *locks: int) -> Iterator[Connection]:
    """A transaction that holds `locks` to its end, so that what it reads is true until it commits."""
    with engine.execution_options(**{_IMMEDIATE: True}).connect() as connection:
        with stage("lock"):
            if engine.dialect.name == "postgresql":
                waited = Waited(connection, locks)
                while not _locked(connection, sorted(locks)):
                    waited.end_hung()
            else:
                connection.begin()
        yield connection
        with stage("commit"):
            connection.commit()


def _locked(connection: Connection, locks: Sequence[int]) -> bool:
    """Begin a transaction with these locks, in this order, so that two writers cannot wait for each other."""
    connection.begin()
    connection.execute(text(_WRITING))
    try:
        for lock in locks:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})
    except OperationalError as error:
        connection.rollback()
        if is_locked(error):
            return False
        raise
    connection.execute(text("SET LOCAL lock_timeout = 0"))
    return True


def is_locked(error: OperationalError) -> bool:
    """Whether it is that a lock was not to be had within `lock_timeout`."""
    return isinstance(error.orig, psycopg.errors.LockNotAvailable)


class Waited:
    """One writer's wait for its locks: who had them when it looked, and since when they have been taking in nothing."""

    def __init__(self, connection: Connection, locks: Sequence[int]) -> None:
        self._connection, self._locks = connection, list(locks)
        self._silent_since: dict[Any, float] = {}

    def end_hung(self) -> None:
        """Look, and end the sessions whose COPY has been at the same byte for HUNG_S."""
        with self._connection.begin():
            found = self._connection.execute(text(_COPYING), {"locks": self._locks}).all()
            now = monotonic()
            self._silent_since = {row: self._silent_since.get(row, now) for row in found}
            for row, since in self._silent_since.items():
                if now - since >= HUNG_S:
                    self._connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": row.pid})
                    log.warning("hung_writer_ended", pid=row.pid, locks=self._locks)


def change_schema(engine: Engine, change: Callable[[Connection], T]) -> T:
    """Run a change of the schema in a transaction of its own, where a hardened database lets it.

    It waits for a long read (an audit, a dump) only for moments, and tries again: whoever comes after it waits, too.
    """
    while True:
        try:
            with writing(engine, MIGRATION_LOCK) as connection:
                if engine.dialect.name == "postgresql":
                    connection.exec_driver_sql("SET LOCAL opentoken.migration = 'on'")
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOOK_S}s'")
                return change(connection)
        except OperationalError as error:
            if not is_locked(error):
                raise
            log.warning("schema_change_waits", reason="a table is read or written", retry_s=LOOK_S)
        time.sleep(LOOK_S)


def rows(connection: Connection, query: Select[Any]) -> list[Row]:
    """All rows that a query finds."""
    return [row._asdict() for row in connection.execute(query)]


def row(connection: Connection, query: Select[Any]) -> Row | None:
    """The one row that a query finds, if any."""
    found = connection.execute(query).one_or_none()
    return None if found is None else found._asdict()


def insert_rows(
    connection: Connection, table: str, names: Sequence[str], rows: Iterable[Sequence[str | bool | None]]
) -> None:
    """Insert rows whose values stand as text, booleans apart; by COPY on PostgreSQL, many times faster than INSERT.

    PostgreSQL takes in what `rows` has given while it makes the next. Raises DBAPIError.
    """
    columns = ", ".join(names)
    if connection.dialect.name == "sqlite":
        if given := list(map(tuple, rows)):
            places = ", ".join("?" * len(names))
            connection.exec_driver_sql(f"INSERT INTO {table} ({columns}) VALUES ({places})", given)  # noqa: S608 - our names
        return
    statement = f"COPY {table} ({columns}) FROM STDIN"
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]  # it is ours
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy, computing():
            for each in rows:
                copy.write_row(each)
    except psycopg.Error as error:  # what SQLAlchemy does for every statement of its own
        raise DBAPIError.instance(statement, None, error, psycopg.Error, dialect=connection.dialect) from error


def refuses(error: DBAPIError) -> bool:
    """Whether the database refuses a row for what is in it, so that to send it again is no use.

    What is too large for an index of PostgreSQL's (class 54) comes as the same error as a lost connection.
    """
    too_large = getattr(error.orig, "sqlstate", None) or ""
    return isinstance(error, IntegrityError | DataError) or too_large.startswith("54")


def run_script(connection: Connection, script: str) -> None:
    """Run a file of SQL inside the connection's transaction."""
    raw = connection.execution_options(no_parameters=True)
    if connection.dialect.name == "postgresql":
        raw.exec_driver_sql(script)
        return
    statement = ""
    for line in script.splitlines(keepends=True):  # the driver's executescript would commit first
        statement += line
        if sqlite3.complete_statement(statement):
            raw.exec_driver_sql(statement)
            statement = ""


class Threads:
    """Where the database work of an event loop is done: writes one after another, reads beside them."""

    def __init__(self) -> None:
        self._writer = ThreadPoolExecutor(1, "ledger-writer")
        self._lender = ThreadPoolExecutor(1, "lease-writer")
        self._readers = ThreadPoolExecutor(READERS, "ledger-reader")
        self._prompt = ThreadPoolExecutor(PROMPT, "ledger-prompt")
        self._exporter = ThreadPoolExecutor(1, "checkpoint-exporter")

    async def write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` on the one writing thread. It runs to its end even where the caller is cancelled."""
        return await self._run(self._writer, lambda: function(*args, **kwargs))

    async def lend(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` on a thread that writes leases: an edge that waits for credit waits for no batch of usage."""
        return await self._run(self._lender, lambda: function(*args, **kwargs))

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` on a reading thread."""
        return await self._run(self._readers, lambda: function(*args, **kwargs))

    async def prompt(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` on a thread that no audit takes: requests, or the books, wait for it."""
        return await self._run(self._prompt, lambda: function(*args, **kwargs))

    async def export(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` on a thread that may hang with the file system it writes to."""
        return await self._run(self._exporter, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Wait for what is running."""
        for pool in (self._writer, self._lender, self._readers, self._prompt, self._exporter):
            pool.shutdown()

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


def ping(engine: Engine) -> None:
    """Raise OperationalError unless the database answers."""
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # the driver would begin transactions late, and none around DDL
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def begin_sqlite(connection: Connection) -> None:
    """Begin as SQLAlchemy does not: at once, and where it is to write, as the one writer."""
    immediate = connection.get_execution_options().get(_IMMEDIATE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
