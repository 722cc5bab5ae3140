"""What keys spend and leases cost, moved in the transaction that books it, so that neither is ever ahead or behind.

The window of a spend limit is a sum over days of `key_spend`: a key's million records need not be read to know it.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, Table, text

from services.billing.database import Row
from services.billing.tables import key_spend, lease_booked

WHOLE: Final = ""  # where a key's id stands otherwise: all of the lease, the workspace's credit

# On PostgreSQL all rows in one statement: row by row it would be a round trip each, while the shard's lock is held.
_ADD: Final = {
    "postgresql": """
INSERT INTO {table} ({first}, {second}, cost_pico)
SELECT * FROM unnest(CAST(:first AS text[]), CAST(:second AS text[]), CAST(:cost_pico AS numeric[]))
ON CONFLICT ({first}, {second}) DO UPDATE SET cost_pico = {table}.cost_pico + excluded.cost_pico
""",
    "sqlite": """
INSERT INTO {table} ({first}, {second}, cost_pico) VALUES (:first, :second, :cost_pico)
ON CONFLICT ({first}, {second}) DO UPDATE SET cost_pico = cost_pico + excluded.cost_pico
""",
}


def add(connection: Connection, records: Iterable[Row]) -> None:
    """Add what these rows of `usage_record` cost to their keys' days and to their leases."""
    spent = Counter[tuple[str, str | None, datetime]]()
    for record in records:
        spent[record["key_id"], record["lease_id"], record["recorded_at"]] += record["cost_pico"]
    days, leases = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for (key_id, lease_id, moment), cost_pico in spent.items():
        days[key_id, day_of(moment)] += cost_pico
        if lease_id:
            for part in {WHOLE, key_id}:
                leases[lease_id, part] += cost_pico
    _add(connection, key_spend, days)
    _add(connection, lease_booked, leases)


def day_of(moment: datetime) -> str:
    """The day in UTC, as `key_spend` has it."""
    return moment.astimezone(UTC).date().isoformat()


def _add(connection: Connection, table: Table, sums: Counter[tuple[str, str]]) -> None:
    # Sorted, so that two writers that meet in a row cannot wait for each other.
    rows = [(first, second, cost) for (first, second), cost in sorted(sums.items()) if cost]
    if not rows:
        return
    first, second = (column.name for column in table.primary_key)
    statement = text(_ADD[connection.dialect.name].format(table=table.name, first=first, second=second))
    if connection.dialect.name == "postgresql":
        firsts, seconds, costs = zip(*rows, strict=True)
        connection.execute(statement, {"first": [*firsts], "second": [*seconds], "cost_pico": [*map(str, costs)]})
    else:
        connection.execute(statement, [{"first": a, "second": b, "cost_pico": cost} for a, b, cost in rows])
