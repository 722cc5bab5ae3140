"""The Merkle tree as the database keeps it: one row of `checkpoint` for each batch, written in the batch's transaction.

Such a row holds the size, the root and the frontier after the batch, and the nodes which the batch completed, in the
order of `Frontier.extend`: so growing reads one row, and any node is a slice of one row, found by arithmetic.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, Integer, LargeBinary, cast, func, insert, select

from services.billing.database import Row, row
from services.billing.leaves import Kind, leaf
from services.billing.merkle import HASH_BYTES, Frontier, Reader, leaf_hash, nodes_before, place
from services.billing.tables import checkpoint


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


def reader(connection: Connection, shard: int) -> Reader:
    """Reads the nodes of a shard's tree; each is one step down an index. Raises LookupError past the tree's end."""

    def read(level: int, index: int) -> bytes:
        last_leaf, at = place(level, index)
        start = cast((at - checkpoint.c.first_node) * HASH_BYTES + 1, Integer)  # PostgreSQL slices no further
        batch = select(func.substr(checkpoint.c.nodes, start, HASH_BYTES, type_=LargeBinary))
        holder = batch.where(checkpoint.c.shard == shard, checkpoint.c.tree_size > last_leaf)
        found: bytes | None = connection.scalar(holder.order_by(checkpoint.c.tree_size).limit(1))
        if found is None:
            raise LookupError(f"shard {shard} has no leaf {last_leaf}")
        return found

    return read
