"""The Merkle tree as the database keeps it: one row of `checkpoint` for each batch, written in the batch's transaction.

Such a row holds the size, the root and the frontier after the batch, and the nodes which the batch completed, in the
order of `Frontier.extend`: so growing reads one row, and any node is a slice of one row, found by arithmetic.
"""

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection, insert, select

from services.billing.database import row
from services.billing.merkle import EMPTY_ROOT, Frontier, Reader, nodes_before, place
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


class Growth:
    """A shard's tree as it grows by a batch. The caller holds the shard's lock, and inserts the rows."""

    def __init__(self, connection: Connection, shard: int) -> None:
        self._connection, self._shard = connection, shard
        self._tree = frontier(connection, shard)
        self._first_node, self._nodes = nodes_before(self._tree.size), list[bytes]()

    @property
    def size(self) -> int:
        """How many leaves there are: the number of the next one."""
        return self._tree.size

    def add(self, leaf_hashes: Iterable[bytes]) -> None:
        """Add leaves."""
        self._tree, nodes = self._tree.extend(leaf_hashes)
        self._nodes += nodes

    def keep(self, recorded_at: datetime) -> None:
        """Insert the batch's checkpoint."""
        grown = {
            "shard": self._shard,
            "tree_size": self._tree.size,
            "root": self._tree.root(),
            "frontier": self._tree.to_bytes(),
            "first_node": self._first_node,
            "nodes": b"".join(self._nodes),
            "recorded_at": recorded_at,
        }
        self._connection.execute(insert(checkpoint), grown)


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
