"""Lending to edges: what `lending` decides, on what the database holds. One transaction a call.

Those about one workspace come one after another, by an advisory lock; they and the ledger's writer never wait for each
other, because they write to different tables.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine, and_, bindparam, delete, func, insert, literal, select, update

from services.billing import pots
from services.billing.database import LEASE_LOCKS, writing
from services.billing.lending import GRACE, Loan, Pot, is_scarce, more_pico
from services.billing.spend import WHOLE
from services.billing.tables import api_key, lease, lease_booked, usage_record, workspace
from shared.events import shard_of
from shared.ids import request_id_of
from shared.leases import Answers, Ask, Asks, Lent

CLOSED = Lent(granted_pico=0, closed=True)
ORPHANED = timedelta(days=2)  # what was booked of a lease is kept for so long, should its usage come very late


class Leases:
    """All leases. `wall` tells the time of day, for windows; `steady` never jumps while this process runs."""

    def __init__(
        self,
        engine: Engine,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        steady: Callable[[], datetime] | None = None,
    ) -> None:
        self._engine, self._wall, self._steady = engine, wall, steady or _steady()
        self._listening_since = self._steady()

    def answer(self, asks: Asks) -> tuple[Answers, set[str]]:
        """The answer to an edge's call, and the workspaces of which other edges are to give back what they can."""
        now = self._steady()
        with writing(self._engine, *{_lock(ask.workspace_id) for ask in asks.asks}) as connection:
            loans = self._tell(connection, asks, now)
            lent = self._lend(connection, list(zip(asks.asks, loans, strict=True)), now)
            settled = _settled(connection, asks.pending)
        short = {ask.workspace_id for ask, answer in zip(asks.asks, lent, strict=True) if answer.recalled}
        return Answers(lent=lent, settled=settled), short

    def sweep(self) -> int:
        """Free what edges left behind, and return how many leases that were."""
        freed_before = self._steady() - GRACE
        if freed_before < self._listening_since:  # as `Loan.is_over` says
            return 0
        oldest = (self._wall() - ORPHANED).timestamp() * 1000
        unknown = ~select(lease.c.lease_id).where(lease.c.lease_id == lease_booked.c.lease_id).exists()
        with writing(self._engine, *LEASE_LOCKS) as connection:
            swept = connection.execute(delete(lease).where(lease.c.expires_at <= freed_before))
            # A lease's id is a UUIDv7, which begins with its milliseconds.
            connection.execute(delete(lease_booked).where(lease_booked.c.lease_id < _first_id(int(oldest)), unknown))
        return swept.rowcount

    def _tell(self, connection: Connection, asks: Asks, now: datetime) -> list[Loan | None]:
        """Write down how far the edge is with each lease; None where it has none of this name, nor may begin one."""
        known = _known(connection, {ask.lease_id for ask in asks.asks})
        fresh = [ask for ask in asks.asks if _name(ask) not in known and not (ask.used_pico or ask.returned_pico)]
        new = {
            _name(ask): Loan(ask.lease_id, ask.key_id or WHOLE, asks.edge, ask.workspace_id, now)
            for ask in _existing(connection, fresh)
        }
        found = list[Loan | None]()
        for ask in asks.asks:
            loan = new.get(_name(ask)) or known.get(_name(ask))
            ours = loan is not None and (loan.edge, loan.workspace_id) == (asks.edge, ask.workspace_id)
            found.append(loan.told(ask, now) if loan is not None and ours else None)
        told = {(loan.lease_id, loan.key_id): loan for loan in found if loan is not None}
        if begun := [_row(loan) for name, loan in told.items() if name in new]:
            connection.execute(insert(lease), begun)
        _update(connection, (loan for name, loan in told.items() if name not in new))
        return found

    def _lend(self, connection: Connection, asked: list[tuple[Ask, Loan | None]], now: datetime) -> list[Lent]:
        wanting = [ask for ask, loan in asked if loan is not None and ask.wanted_pico > loan.granted_pico]
        found = self._pots(connection, wanting)
        edges = _edges(connection, {ask.workspace_id for ask, _ in asked}, now)
        lent, grown = list[Lent](), list[Loan]()
        for ask, loan in asked:
            if loan is None or (loan.closed and not ask.final):
                lent.append(CLOSED)
                continue
            if (pot := found.get(_owner(ask))) is None:
                lent.append(Lent(granted_pico=loan.granted_pico, edges=edges.get(ask.workspace_id, 1)))
                continue
            more = replace(loan, granted_pico=loan.granted_pico + more_pico(loan, ask, pot, now))
            found[_owner(ask)] = pot = _replaced(pot, more)
            short = more.granted_pico < ask.needed_pico
            lent.append(
                Lent(
                    granted_pico=more.granted_pico,
                    short=short,
                    recalled=short and pot.is_held_by_others(loan.edge),
                    scarce=is_scarce(pot, loan.edge, now),
                    edges=edges.get(ask.workspace_id, 1),
                )
            )
            grown.append(more)
        _update(connection, grown)
        return lent

    def _pots(self, connection: Connection, asks: list[Ask]) -> dict[tuple[str, str], Pot]:
        """What there is for each of these; one that has none wants something that does not exist."""
        names, keys = (
            {ask.workspace_id for ask in asks if ask.key_id is None},
            {ask.key_id for ask in asks if ask.key_id},
        )
        credit = pots.credit(connection, names) if names else {}
        limits = pots.limits(connection, keys, self._wall()) if keys else {}
        found = {(name, WHOLE): pot for name, pot in credit.items()}
        owners = {ask.key_id: ask.workspace_id for ask in asks if ask.key_id}
        return found | {(owners[key_id], key_id): limit.pot for key_id, limit in limits.items()}


def _edges(connection: Connection, workspaces: set[str], now: datetime) -> dict[str, int]:
    """How many edges spend from each workspace; one that none spends from is left out."""
    live = lease.c.workspace_id.in_(workspaces) & ~lease.c.closed & (lease.c.expires_at > now)
    counted = select(lease.c.workspace_id, func.count(lease.c.edge.distinct())).where(live)
    return dict(tuple(found) for found in connection.execute(counted.group_by(lease.c.workspace_id)))


def _steady() -> Callable[[], datetime]:
    """The time as it was at the start, and what a clock that nobody sets counted since."""
    began, started = datetime.now(UTC), time.monotonic()
    return lambda: began + timedelta(seconds=time.monotonic() - started)


def _lock(workspace_id: str) -> int:
    return LEASE_LOCKS[shard_of(workspace_id, len(LEASE_LOCKS))]


def _first_id(unix_ms: int) -> str:
    digits = f"{unix_ms:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _name(ask: Ask) -> tuple[str, str]:
    return ask.lease_id, ask.key_id or WHOLE


def _owner(ask: Ask) -> tuple[str, str]:
    return ask.workspace_id, ask.key_id or WHOLE


def _known(connection: Connection, lease_ids: set[str]) -> dict[tuple[str, str], Loan]:
    query = select(lease, literal(0).label("booked_pico")).where(lease.c.lease_id.in_(lease_ids))
    return {(row.lease_id, row.key_id): pots.loan_of(row) for row in connection.execute(query)}


def _existing(connection: Connection, asks: list[Ask]) -> Iterable[Ask]:
    """Those whose workspace, and whose key in it, exist."""
    if not asks:
        return []
    wanted = {one.workspace_id for one in asks}
    names = set(connection.scalars(select(workspace.c.id).where(workspace.c.id.in_(wanted))))
    of_keys = select(api_key.c.id, api_key.c.workspace_id).where(api_key.c.id.in_({one.key_id for one in asks}))
    owners = {row.id: row.workspace_id for row in connection.execute(of_keys)}
    return [
        ask
        for ask in asks
        if ask.workspace_id in names and (ask.key_id is None or owners.get(ask.key_id) == ask.workspace_id)
    ]


def _replaced(pot: Pot, loan: Loan) -> Pot:
    """The pot with this loan as it is now; what is booked of it stays as it was read."""
    same = [one for one in pot.loans if (one.lease_id, one.key_id) == (loan.lease_id, loan.key_id)]
    others = [one for one in pot.loans if one not in same]
    return replace(pot, loans=(*others, *(replace(loan, booked_pico=one.booked_pico) for one in same)))


def _row(loan: Loan) -> dict[str, object]:
    return {name: value for name, value in asdict(loan).items() if name != "booked_pico"}


def _update(connection: Connection, loans: Iterable[Loan]) -> None:
    same = and_(lease.c.lease_id == bindparam("id"), lease.c.key_id == bindparam("key"))
    told = ("granted_pico", "returned_pico", "used_pico", "closed", "expires_at")
    found = [{"id": one.lease_id, "key": one.key_id} | {name: getattr(one, name) for name in told} for one in loans]
    if found:
        connection.execute(update(lease).where(same), found)


def _settled(connection: Connection, request_ids: list[str]) -> dict[str, int]:
    wanted = [name for name in request_ids if request_id_of(name) == name]
    query = select(usage_record.c.request_id, usage_record.c.cost_pico).where(usage_record.c.request_id.in_(wanted))
    return {row.request_id: row.cost_pico for row in connection.execute(query)} if wanted else {}
