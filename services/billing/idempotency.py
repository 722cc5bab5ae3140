"""Which request an Idempotency-Key stands for, and its answer: for a day, in the database that all edges share.

    free ─claim─▶ running ─keep────────────────────▶ finished: its answer is given again
                     ├─ release, or a record at 0 ─▶ free: it failed and cost nothing, so a retry is a real one
                     ├─ a record with a cost ──────▶ billed: refused, for its answer is not here (a stream, an answer
                     │                               too large to keep, an edge lost before it could keep it)
                     └─ HELD without a record ─────▶ unknown: refused, until a record comes
    after KEPT, any ─▶ free

What a request cost is known from its usage record alone. It may wait in a worker's spool for as long as the broker is
away, and the client may have read the whole answer: so a request without a record is never taken for one that is lost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Engine, Table, delete, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite

from services.billing.database import Row, row, writing
from services.billing.tables import idempotency_key, usage_record

KEPT = timedelta(hours=24)  # longer than any client's retries go on; api.md promises it
HELD = timedelta(minutes=12)  # an edge gives up on an answer after 11: it runs no more
SETTLING = timedelta(seconds=15)  # from the record to the answer's keeping: an edge tries for 5 s, once
PURGED_AT_ONCE = 50  # rows, of ten megabytes at most: a transaction of a moment

State = Literal["free", "running", "finished", "billed", "unknown", "other_body"]

_INSERT: dict[str, Callable[[Table], postgresql.Insert | sqlite.Insert]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


@dataclass(frozen=True, slots=True)
class Claim:
    """A request that wants to run under a key, known here by its SHA-256 only, as is what was asked."""

    workspace_id: str
    key_digest: str
    body_digest: str
    request_id: str
    stream: bool


@dataclass(frozen=True, slots=True)
class Claimed:
    """The state that the key was found in, and the request that it stands for: of a free key, the claim's own."""

    state: State
    request_id: str
    answer: bytes | None = None


def state_of(found: Row, record: Row | None, body_digest: str, now: datetime) -> State:
    """The state of a key that was claimed before; `record` is the usage record of its request, if it is booked."""
    unfinished = found["answer"] is None
    if now - found["claimed_at"] >= KEPT or (unfinished and record is not None and not record["cost_pico"]):
        return "free"
    if found["body_digest"] != body_digest:
        return "other_body"
    if not unfinished:
        return "finished"
    if record is None:
        return "running" if now - found["claimed_at"] < HELD else "unknown"
    return "billed" if found["stream"] or now - record["recorded_at"] >= SETTLING else "running"


class IdempotencyKeys:
    """The keys of all workspaces; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def claim(self, claim: Claim) -> Claimed:
        """Take the key for this request if it is free. Of any number of claims at once, one finds it free."""
        now = datetime.now(UTC)
        new = {name: getattr(claim, name) for name in Claim.__slots__} | {"answer": None, "claimed_at": now}
        with writing(self._engine) as connection:
            found = _inserted_or_locked(connection, new)
            if found["request_id"] == claim.request_id:
                return Claimed("free", claim.request_id)
            record = select(usage_record.c.cost_pico, usage_record.c.recorded_at)
            booked = row(connection, record.where(usage_record.c.request_id == found["request_id"]))
            state = state_of(found, booked, claim.body_digest, now)
            if state == "free":
                same = idempotency_key.c.request_id == found["request_id"]
                connection.execute(update(idempotency_key).where(same).values(new))
                return Claimed("free", claim.request_id)
        return Claimed(state, found["request_id"], found["answer"] if state == "finished" else None)

    def keep(self, request_id: str, answer: bytes) -> bool:
        """Keep the answer of a request that still holds its key; whether it does."""
        ours = idempotency_key.c.request_id == request_id
        with writing(self._engine) as connection:
            return connection.execute(update(idempotency_key).where(ours).values(answer=answer)).rowcount == 1

    def keep_none(self, request_id: str) -> bool:
        """The request has ended, but its answer cannot be given again, as a stream's cannot; whether it has its key."""
        ours = idempotency_key.c.request_id == request_id
        with writing(self._engine) as connection:
            return connection.execute(update(idempotency_key).where(ours).values(stream=True)).rowcount == 1

    def release(self, request_id: str) -> bool:
        """Free the key of a request that failed, unless it was billed after all; whether it is free now."""
        billed = exists().where(usage_record.c.request_id == request_id, usage_record.c.cost_pico > 0)
        ours = idempotency_key.c.request_id == request_id
        with writing(self._engine) as connection:
            return connection.execute(delete(idempotency_key).where(ours, ~billed)).rowcount == 1

    def purge(self) -> int:
        """Delete the oldest of what is past its day, a bounded number; how many."""
        old = select(idempotency_key.c.request_id).where(idempotency_key.c.claimed_at < datetime.now(UTC) - KEPT)
        some = old.order_by(idempotency_key.c.claimed_at).limit(PURGED_AT_ONCE)
        with writing(self._engine) as connection:
            return connection.execute(delete(idempotency_key).where(idempotency_key.c.request_id.in_(some))).rowcount


def _inserted_or_locked(connection: Connection, new: dict[str, Any]) -> Row:
    """The key's row: this one, where there was none, else the one that there is; held until the transaction ends."""
    statement = _INSERT[connection.dialect.name](idempotency_key).values(new)
    itself = {"key_digest": statement.excluded.key_digest}  # an update that changes nothing locks and returns the row
    keys = (idempotency_key.c.workspace_id, idempotency_key.c.key_digest)
    upsert = statement.on_conflict_do_update(index_elements=keys, set_=itself).returning(*idempotency_key.c)
    return connection.execute(upsert).one()._asdict()
