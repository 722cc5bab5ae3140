"""The Merkle tree as the database keeps it: one row of `checkpoint` for each batch, written in the batch's transaction.

Such a row holds the size, the root and the frontier after the batch, and the nodes which the batch completed, in the
order of `Frontier.extend`: so growing reads one row, and any node is a slice of one row, found by arithmetic.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from sqlalchemy import Connection, insert, select

from services.billing.database import Row, row
from services.billing.leaves import Kind, leaf
from services.billing.merkle import EMPTY_ROOT, Frontier, Reader, leaf_hash, nodes_before, place
from services.billing.tables import checkpoint

T = TypeVar("T")

# For each node, the batch that completed it is the first that reaches past the node's last leaf. Only integers are put
# in. PostgreSQL slices by INTEGER alone.
_NODES = """
WITH wanted (last_leaf, place) AS (VALUES {places})
SELECT place, (
    SELECT substr(nodes, CAST((place - first_node) * 32 + 1 AS INTEGER), 32) FROM checkpoint
    WHERE shard = {shard} AND tree_size > last_leaf ORDER BY tree_size LIMIT 1)
FROM wanted
"""


def frontier(connection: Connection, shard: int) -> Frontier:
    """Where the shard's tree stands."""
    of_shard = select(checkpoint).with_only_columns(checkpoint.c.tree_size, checkpoint.c.frontier)
    last = of_shard.where(checkpoint.c.shard == shard).order_by(checkpoint.c.tree_size.desc()).limit(1)
    found = row(connection, last)
    return Frontier.from_bytes(found["tree_size"], found["frontier"]) if found else Frontier()


def grow(connection: Connection, shard: int, booked: Sequence[tuple[Kind, Row]]) -> list[tuple[Kind, Row]]:
    """Add a leaf for each row, in this order, and return the rows with their `leaf_index`.

    The caller holds the shard's lock, and inserts the rows in the same transaction. Raises LeafError.
    """
    before = frontier(connection, shard)
    after, nodes = before.extend(leaf_hash(leaf(kind, row)) for kind, row in booked)
    grown = {
        "shard": shard,
        "tree_size": after.size,
        "root": after.root(),
        "frontier": after.to_bytes(),
        "first_node": nodes_before(before.size),
        "nodes": b"".join(nodes),
        "recorded_at": booked[-1][1]["recorded_at"],
    }
    connection.execute(insert(checkpoint), grown)
    return [(kind, {**row, "leaf_index": index}) for index, (kind, row) in enumerate(booked, before.size)]


def proved(connection: Connection, shard: int, prove: Callable[[Reader], T]) -> T:
    """What `prove` makes of the shard's nodes. Raises LookupError where it reads past the tree's end.

    It is run twice: once to learn which nodes it reads, which then come in one query.
    """
    wanted = dict[tuple[int, int], int]()

    def note(level: int, index: int) -> bytes:
        wanted[level, index] = place(level, index)[1]
        return EMPTY_ROOT

    prove(note)
    found = _nodes(connection, shard, wanted)
    return prove(lambda level, index: found[wanted[level, index]])


def _nodes(connection: Connection, shard: int, wanted: Collection[tuple[int, int]]) -> dict[int, bytes]:
    """The nodes (level, index), by their places."""
    if not wanted:
        return {}
    places = ", ".join("({}, {})".format(*place(level, index)) for level, index in wanted)
    found = connection.exec_driver_sql(_NODES.format(places=places, shard=shard))
    nodes = {at: bytes(node) for at, node in found if node is not None}
    if len(nodes) < len(wanted):
        raise LookupError(f"shard {shard} has not as many leaves")
    return nodes
