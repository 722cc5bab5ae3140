"""What there is to lend from, as the database has it: a workspace's balance, or a key's limit and what it spent.

Each is one statement together with its leases and what is booked of them: a record that is committed between two
statements would be in one sum and not yet, or no longer, in the other.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, get_args

from sqlalchemy import Connection, FromClause, ScalarSelect, Select, and_, case, func, select

from services.billing.lending import Loan, Pot
from services.billing.spend import WHOLE, day_of
from services.billing.tables import MAX_AMOUNT_PICO, api_key, key_spend, lease, lease_booked, ledger_entry, workspace
from services.billing.windows import LimitReset, window

UNLIMITED_PICO: Final = MAX_AMOUNT_PICO  # of a key whose limit was taken away while an edge still asks for its part


@dataclass(frozen=True, slots=True)
class Limit:
    """A key's window: what it spent in it, and what may still be lent of its limit."""

    spend_pico: int
    pot: Pot


def credit(connection: Connection, workspace_ids: Collection[str]) -> dict[str, Pot]:
    """The credit of these workspaces; those that do not exist are left out."""
    last = (
        select(ledger_entry.c.balance_after_pico)
        .where(ledger_entry.c.workspace_id == workspace.c.id)
        .order_by(ledger_entry.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    ours = and_(lease.c.workspace_id == workspace.c.id, lease.c.key_id == WHOLE)
    query = _with_loans(select(workspace.c.id, last), workspace.outerjoin(lease, ours))
    found = connection.execute(query.where(workspace.c.id.in_(workspace_ids))).all()
    limits = {id_: balance_pico or 0 for id_, balance_pico, *_ in found}
    return {id_: Pot(limit_pico, _loans(found, id_)) for id_, limit_pico in limits.items()}


def limits(connection: Connection, key_ids: Collection[str], now: datetime) -> dict[str, Limit]:
    """The limits of these keys in the windows that hold `now`; keys that do not exist are left out."""
    spent = _spend(now)
    columns = select(api_key.c.id, api_key.c.spend_limit_pico, spent)
    query = _with_loans(columns, api_key.outerjoin(lease, lease.c.key_id == api_key.c.id))
    found = connection.execute(query.where(api_key.c.id.in_(key_ids))).all()
    known = {id_: (limit_pico, int(spend_pico)) for id_, limit_pico, spend_pico, *_ in found}
    return {
        id_: Limit(spend, Pot(UNLIMITED_PICO if limit is None else limit - spend, _loans(found, id_)))
        for id_, (limit, spend) in known.items()
    }


def _spend(now: datetime) -> ScalarSelect[Any]:
    """What a key spent in its own window, whichever that is."""
    starts = {reset: day_of(current.start) for reset in get_args(LimitReset) if (current := window(reset, now))}
    first = case(starts, value=api_key.c.limit_reset, else_="")
    return (
        select(func.coalesce(func.sum(key_spend.c.cost_pico), 0))
        .where(key_spend.c.key_id == api_key.c.id, key_spend.c.day >= first)
        .scalar_subquery()
    )


def _with_loans(query: Select[Any], owners: FromClause) -> Select[Any]:
    same = and_(lease_booked.c.lease_id == lease.c.lease_id, lease_booked.c.key_id == lease.c.key_id)
    booked = func.coalesce(lease_booked.c.cost_pico, 0).label("booked_pico")
    return query.add_columns(*lease.c, booked).select_from(owners.outerjoin(lease_booked, same))


def _loans(found: Collection[Any], owner: str) -> tuple[Loan, ...]:
    return tuple(loan_of(row) for row in found if row.id == owner and row.lease_id is not None)


def loan_of(row: Any) -> Loan:
    """A row of `lease`, with what is booked of it."""
    return Loan(
        lease_id=row.lease_id,
        key_id=row.key_id,
        edge=row.edge,
        workspace_id=row.workspace_id,
        expires_at=row.expires_at,
        granted_pico=row.granted_pico,
        returned_pico=row.returned_pico,
        used_pico=row.used_pico,
        booked_pico=int(row.booked_pico),
        closed=row.closed,
    )
