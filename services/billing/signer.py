"""Signs where the trees stand, at most 10 s or 10,000 leaves apart, and exports it out of our own reach.

What is much is signed in the transaction that wrote it: no look in between could be sure to come in time.
A note is first kept in the database, then written to the directory, one file a note and `latest`, on a thread of its
own: a file system that hangs must hold up neither the books nor the signatures. What the directory misses, after a
crash or while it was away, is written the next time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog
from prometheus_client import Counter, Gauge
from sqlalchemy import Connection, Engine, Table, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from services.billing import tree
from services.billing.checkpoint import Checkpoint, NoteError, SigningKey
from services.billing.database import Threads, reading, rows, writing
from services.billing.files import write_file
from services.billing.keys import read_key
from services.billing.settings import BillingSettings
from services.billing.tables import checkpoint, signed_checkpoint

log = structlog.get_logger()

LOOK_S = 0.2  # a small part of SIGN_AFTER_S, and what it costs does not show
APART_LEAVES = 10_000  # what is promised
BATCH_LEAVES = 2 * 3_500  # of the largest batch that the bus hands out (`shared.bus.consumer`): a record and its debit
SIGN_LEAVES = APART_LEAVES - BATCH_LEAVES - 100  # one batch more is within the promise, with the credits in between
SIGN_AFTER_S = 5.0  # half of what is promised, so that one failure in between breaks no promise
LATEST = "latest"

Work = Callable[[], None]
Run = Callable[[Work], Awaitable[None]]

SIGNED = Counter("opentoken_ledger_checkpoints_signed_total", "Checkpoints signed.", ["shard"])
EXPORTED = Counter("opentoken_ledger_checkpoints_exported_total", "Checkpoints written to the directory.", ["shard"])
FAILED = Counter("opentoken_ledger_checkpoints_failed_total", "Attempts to sign or export that failed.")
SIZE = Gauge("opentoken_ledger_checkpoint_size", "Leaves that the newest signed checkpoint covers.", ["shard"])


class Signer:
    """Signs for all shards; every method blocks. Without a directory the notes stay in the database alone."""

    def __init__(self, engine: Engine, shards: int, key: SigningKey, directory: Path | None) -> None:
        self._engine, self._shards, self._key, self._directory = engine, range(shards), key, directory
        self._signed_at_s = dict.fromkeys(self._shards, float("-inf"))
        self._booked = 0  # leaves, at most, that were booked here and are not signed
        self._signed_within = False  # a batch, since the last look
        self._unexported = directory is not None
        self._latest = set[Path]()  # what is there: where one is gone, so is the directory, or its volume
        for shard in self._shards if self._unexported else ():  # what is not there before its first has no increase
            EXPORTED.labels(shard)

    def grown(self, connection: Connection, shard: int, leaves: int) -> None:
        """Sign a shard to which so many leaves were added, in the transaction that added them, if that is due.

        A failure is for the log: it must not hold up the books.
        """
        self._booked += leaves
        if self._booked < SIGN_LEAVES:
            return
        try:
            with connection.begin_nested():
                if _unsigned(connection, shard) >= SIGN_LEAVES:
                    self._insert(connection, shard)
                    self._signed_within = True
        except SQLAlchemyError:
            FAILED.inc()
            log.exception("checkpoint_not_kept", retry_s=LOOK_S)

    def sign_due(self) -> None:
        """Sign each shard that has grown by enough, or for long enough. On the thread that writes, between batches.

        Raises SQLAlchemyError.
        """
        if self._signed_within:  # what was signed within a batch is committed only now, if at all
            self._signed_within, self._unexported = False, self._directory is not None
        with reading(self._engine) as connection:
            grown = {shard: _unsigned(connection, shard) for shard in self._shards}
        for shard, leaves in grown.items():
            if leaves >= SIGN_LEAVES or (leaves and time.monotonic() - self._signed_at_s[shard] >= SIGN_AFTER_S):
                self.sign(shard)
                grown[shard] = 0
        self._booked = max(grown.values())

    def sign_all(self) -> None:
        """Sign what is not, and export what is missing in the directory. Raises OSError, NoteError, SQLAlchemyError."""
        for shard in self._shards:
            self.sign(shard)
        self._unexported = self._directory is not None
        self.export_new()

    def sign(self, shard: int) -> None:
        """Sign where the shard's tree stands, unless that is signed."""
        with writing(self._engine, shard) as connection:
            if _unsigned(connection, shard):
                self._insert(connection, shard)
        self._signed_at_s[shard] = time.monotonic()
        self._unexported = self._directory is not None

    def export_new(self) -> None:
        """Write what the directory misses, if anything may have come since, or is gone.

        A `latest` that is no note is a finding for a person: it is not written over. Raises OSError, NoteError,
        SQLAlchemyError.
        """
        if self._directory is None or (not self._unexported and all(map(Path.exists, self._latest))):
            return
        self._unexported = False  # first: what is signed meanwhile is for the next time
        try:
            for shard in self._shards:
                self._export(shard, self._directory / str(shard))
        except BaseException:
            self._unexported = True
            raise

    def _insert(self, connection: Connection, shard: int) -> None:
        stands = tree.frontier(connection, shard)
        note = self._key.sign(shard, stands.size, stands.root())
        new = {"shard": shard, "tree_size": stands.size, "note": note, "recorded_at": datetime.now(UTC)}
        connection.execute(insert(signed_checkpoint), new)
        SIGNED.labels(shard).inc()
        SIZE.labels(shard).set(stands.size)
        log.info("checkpoint_signed", shard=shard, tree_size=stands.size, root=stands.root().hex())

    def _export(self, shard: int, folder: Path) -> None:
        latest = folder / LATEST
        exported = Checkpoint.of(latest.read_text("utf-8")).size if latest.exists() else 0
        missing = select(signed_checkpoint).where(
            signed_checkpoint.c.shard == shard, signed_checkpoint.c.tree_size > exported
        )
        with reading(self._engine) as connection:
            notes = rows(connection, missing.order_by(signed_checkpoint.c.tree_size))
        for each in notes:
            write_file(folder / f"{each['tree_size']:020}", each["note"])
            write_file(latest, each["note"])
            EXPORTED.labels(shard).inc()
        if exported or notes:
            self._latest.add(latest)


def make_signer(engine: Engine, settings: BillingSettings) -> Signer | None:
    """The signer that the settings ask for. Raises NoteError where the key cannot be read."""
    if settings.signing_key_file is None:
        log.warning("checkpoints_unsigned", change="set OPENTOKEN_SIGNING_KEY_FILE")
        return None
    if settings.checkpoint_dir is None:
        log.warning("checkpoints_not_exported", change="set OPENTOKEN_CHECKPOINT_DIR")
    try:
        key = read_key(settings.signing_key_file)
    except OSError as error:
        raise NoteError(f"{error}: make it with `python -m services.billing.keys FILE`") from None
    return Signer(engine, settings.ledger_shards, key, settings.checkpoint_dir)


async def keep_signing(signer: Signer, threads: Threads) -> None:
    """Sign and export what is due until cancelled, whatever goes wrong; then what is left."""
    try:
        await asyncio.gather(_repeated(signer.sign_due, threads.write), _repeated(signer.export_new, threads.export))
    finally:
        await _tried(signer.sign_all, threads.export)


async def _repeated(work: Work, run: Run) -> None:
    while True:
        done = await _tried(work, run)
        await asyncio.sleep(LOOK_S if done else SIGN_AFTER_S)


async def _tried(work: Work, run: Run) -> bool:
    try:
        await run(work)
    except (OSError, ValueError, SQLAlchemyError):  # ValueError: the directory's `latest` is not what we wrote
        FAILED.inc()
        log.exception("checkpoint_not_kept", retry_s=SIGN_AFTER_S)
        return False
    return True


def _unsigned(connection: Connection, shard: int) -> int:
    """How many leaves no signed checkpoint covers."""
    return _largest(connection, checkpoint, shard) - _largest(connection, signed_checkpoint, shard)


def _largest(connection: Connection, table: Table, shard: int) -> int:
    return connection.scalar(select(func.max(table.c.tree_size)).where(table.c.shard == shard)) or 0
