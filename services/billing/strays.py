"""Rows that no walk met, because their shard or leaf number is none of any tree's: null, negative, past the end, 0.5.

Every row of the books is a leaf, so there are as many rows in a shard as the walk over its tree met. Where there are
more, they are looked for, and named one by one.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Table, Text, and_, cast, func, or_, select

from services.billing.invariants import Finding
from services.billing.scan import ID, TABLES, whole
from services.billing.tables import checkpoint

NAMED = 100  # rows, of one table and shard: who finds more needs their number, not their names

Place = tuple[Table, Any]
"""A table, and what stands as the shard of a row: an `int`, if nobody tampered with it."""


def rows_by_shard(connection: Connection) -> Counter[Place]:
    """How many rows there are in each table of the trees, by what stands as their shard."""
    counted = Counter[Place]()
    for table in (*TABLES.values(), checkpoint):
        for shard, rows in connection.execute(select(table.c.shard, func.count()).group_by(table.c.shard)):
            counted[table, whole(shard)] += rows
    return counted


def stray_findings(
    connection: Connection, trees: Mapping[int, int], counted: Counter[Place], met: Counter[Place]
) -> Iterator[Finding]:
    """The rows that were counted and not met, of trees of these sizes by shard."""
    for (table, shard), rows in counted.items():
        if rows == met[table, shard]:
            continue
        size = trees.get(shard, 0) if isinstance(shard, int) else None
        named = [] if table is checkpoint else _named(connection, table, _outside(table, shard, size))
        tree = "a leaf of some tree" if size is None else f"one of the tree's {size} leaves"
        for id_, index in named:
            yield Finding("row", f"{table.name} {id_}, leaf {index} of shard {shard}", tree, "a row beside the tree")
        if len(named) != rows - met[table, shard]:
            where = f"{table.name}, all rows of shard {shard}"
            yield Finding("row", where, f"{met[table, shard]} rows in its tree", f"{rows} rows")


def _outside(table: Table, shard: Any, size: int | None) -> ColumnElement[bool]:
    """The condition that a row is of this shard, and its leaf number none of a tree of this size."""
    if size is None:
        return table.c.shard.is_(None) if shard is None else cast(table.c.shard, Text) == str(shard)
    index = table.c.leaf_index
    outside = or_(index.is_(None), index < 0, index >= size, index != cast(index, BigInteger))
    return and_(table.c.shard == shard, outside)


def _named(connection: Connection, table: Table, where: ColumnElement[bool]) -> list[tuple[str, str]]:
    """The ids and leaf numbers of some rows, as they stand there."""
    shown = select(cast(table.c[ID[table.name]], Text), cast(table.c.leaf_index, Text))
    return [(id_, index) for id_, index in connection.execute(shown.where(where).limit(NAMED))]
