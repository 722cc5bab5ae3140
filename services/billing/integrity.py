"""Rows against leaves, leaves against nodes, nodes against roots, roots against what was published.

One walk over each shard, checkpoint by checkpoint, in which every leaf is rebuilt from its row's columns. A row that
does not hash to its leaf is at fault by itself: the walk goes on with the leaf that is stored, so that one change makes
one finding. Where leaves do not make the stored nodes, the smallest subtree that differs says where. Where all of that
was rewritten, only a checkpoint from outside can tell: the leaves since the last one that agrees are named.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import BigInteger, Connection, Text, cast, select
from sqlalchemy.exc import DBAPIError

from services.billing.errors import unreadable
from services.billing.invariants import Finding
from services.billing.leaves import Kind, LeafError, leaf
from services.billing.merkle import HASH_BYTES, Frontier, leaf_hash, nodes_before, split
from services.billing.scan import ID, PAGE, TABLES, Placed, rows_of, sizes, whole
from services.billing.strays import Place, rows_by_shard, stray_findings
from services.billing.tables import checkpoint

Progress = Callable[[int], None]
"""Is told how many more leaves were checked, or what counts as much."""

CHECKPOINTS = 8  # read at a time: that of a full batch holds half a megabyte of nodes


class Published(NamedTuple):
    """A tree as a signed checkpoint has it; `source` says where that lies."""

    shard: int
    size: int
    root: bytes
    source: str


class Stored(NamedTuple):
    """A row of `checkpoint` but for its time, which is in no hash. Null is empty: so it differs from what must be."""

    tree_size: int
    root: bytes
    frontier: bytes
    first_node: int
    nodes: bytes


class Hashed(NamedTuple):
    """A leaf's number, what its row is and is called, and the hash that the row makes; empty where it makes none."""

    number: int
    kind: Kind
    name: str
    hash: bytes


def tree_findings(connection: Connection, published: Sequence[Published], progress: Progress) -> Iterator[Finding]:
    """All that is wrong with the trees of all shards, and the rows that are in none.

    Every shard that anything is known of is walked, so that a tree which is wholly gone is missed.
    """
    counted, met = rows_by_shard(connection), Counter[Place]()
    known = {one.shard for one in published} | {shard for _, shard in counted if isinstance(shard, int)}
    trees = dict.fromkeys(known, 0) | sizes(connection)
    for shard, size in sorted(trees.items()):
        outside = sorted((one for one in published if one.shard == shard), key=lambda one: one.size)
        yield from Walk(connection, shard, size, outside, progress, met).findings()
    yield from stray_findings(connection, trees, counted, met)


@dataclass(slots=True)
class Walk:
    """A walk over one shard, whose last checkpoint says that it has `size` leaves."""

    connection: Connection
    shard: int
    size: int
    published: Sequence[Published]
    progress: Progress
    met: Counter[Place]
    tree: Frontier = field(default_factory=Frontier)
    agreed: int = 0

    def findings(self) -> Iterator[Finding]:
        """All that is wrong with the shard."""
        rows = Ahead(self._rows())
        for stored in self._checkpoints():
            before = self.tree.size
            yield from self._batch(stored, list(rows.until(stored.tree_size)))
            self.progress(self.tree.size - before)
        for one in self.published:
            if one.size > self.size:
                lost = f"leaves {self.size} to {one.size - 1}"
                yield self._finding("tail", lost, f"{one.size} leaves, as {one.source} says", f"{self.size} leaves")

    def _batch(self, stored: Stored, rows: list[Hashed]) -> Iterator[Finding]:
        begin, end, nodes = self.tree.size, stored.tree_size, split(stored.nodes)
        leaves = _leaves(nodes, begin, end) if stored.first_node == nodes_before(begin) else None
        if leaves is None:  # a checkpoint before this one is gone, or this one was cut
            expected = f"{nodes_before(end) - nodes_before(begin)} nodes from {nodes_before(begin)} on"
            there = f"{len(nodes)} nodes from {stored.first_node} on"
            yield self._finding("checkpoint", f"checkpoint of {end} leaves", expected, there)
            known = {row.number: row.hash or bytes(HASH_BYTES) for row in rows}
            leaves = [known.get(number, bytes(HASH_BYTES)) for number in range(begin, end)]
            nodes = self.tree.extend(leaves)[1]
        yield from self._against_leaves(rows, leaves)
        yield from self._outside(leaves)
        grown, made = self.tree.extend(leaves)
        kept, length = grown, len(stored.frontier)
        if length == len(grown.to_bytes()):
            kept = Frontier.from_bytes(end, stored.frontier)
        else:
            expected = f"{len(grown.to_bytes())} bytes of frontier"
            yield self._finding("frontier", f"checkpoint of {end} leaves", expected, f"{length} bytes")
        for first, last in _differing(begin, nodes, made, kept, grown):
            yield self._finding("node", f"leaves {first} to {last - 1}", "nodes made of their leaves", "others")
        if (stored.root, kept.root()) != (grown.root(), grown.root()):
            there = f"root {stored.root.hex()}"
            yield self._finding("root", f"checkpoint of {end} leaves", f"root {grown.root().hex()}", there)
        self.tree = kept if kept.root() == stored.root else grown

    def _against_leaves(self, rows: list[Hashed], leaves: list[bytes]) -> Iterator[Finding]:
        begin, seen = self.tree.size, set[int]()
        for row in rows:
            expected = leaves[row.number - begin]
            if row.number in seen:
                yield self._finding("row", row.name, f"no other row of leaf {row.number}", "a second one")
            elif row.hash != expected:
                there = f"one that hashes to {row.hash.hex()}" if row.hash else "one that has no canonical leaf"
                yield self._finding("row", row.name, f"a row that hashes to {expected.hex()}", there)
            seen.add(row.number)
            self.met[TABLES[row.kind], self.shard] += 1
        for number in sorted(set(range(begin, begin + len(leaves))) - seen):
            yield self._finding("row", f"leaf {number}", f"a row that hashes to {leaves[number - begin].hex()}", "none")

    def _outside(self, leaves: list[bytes]) -> Iterator[Finding]:
        begin = self.tree.size
        for one in self.published:
            if begin < one.size <= begin + len(leaves):
                root = self.tree.extend(leaves[: one.size - begin])[0].root()
                if root != one.root:
                    since = f"leaves {self.agreed} to {one.size - 1}"
                    there = f"root {root.hex()}"
                    yield self._finding("published", since, f"root {one.root.hex()}, as {one.source} says", there)
                else:
                    self.agreed = one.size

    def _checkpoints(self) -> Iterator[Stored]:
        columns = checkpoint.c
        query = select(*(columns[name] for name in Stored._fields)).where(
            columns.shard == self.shard
        )  # no time: unhashed
        query = query.where(columns.tree_size == cast(columns.tree_size, BigInteger)).order_by(columns.tree_size)
        size = 0
        while found := self.connection.execute(query.where(columns.tree_size > size).limit(CHECKPOINTS)).all():
            for row in found:
                size = int(row.tree_size)
                yield Stored(size, row.root or b"", row.frontier or b"", whole(row.first_node), row.nodes or b"")
            self.met[checkpoint, self.shard] += len(found)

    def _rows(self) -> Iterator[Hashed]:
        for begin in range(0, self.size, PAGE):
            pages = (self._hashed(kind, begin, min(begin + PAGE, self.size)) for kind in TABLES)
            yield from heapq.merge(*pages, key=attrgetter("number"))

    def _hashed(self, kind: Kind, begin: int, end: int) -> list[Hashed]:
        """The rows of a page; where a column holds what cannot be read, those that can, and the names of the others."""
        try:
            with self.connection.begin_nested():  # else PostgreSQL would answer nothing more after an error of its own
                found = rows_of(self.connection, kind, self.shard, begin, end)
                return [_hash(placed) for placed in found if placed.number % 1 == 0]
        except (ValueError, DBAPIError) as error:
            if not unreadable(error):
                raise
        if end - begin == 1:
            return self._unread(kind, begin)
        middle = (begin + end) // 2
        return self._hashed(kind, begin, middle) + self._hashed(kind, middle, end)

    def _unread(self, kind: Kind, index: int) -> list[Hashed]:
        columns = TABLES[kind].c
        ids = select(cast(columns[ID[TABLES[kind].name]], Text))
        ids = ids.where(columns.shard == self.shard, columns.leaf_index == index)
        return [Hashed(index, kind, _name(kind, id_, index), b"") for id_ in self.connection.scalars(ids)]

    def _finding(self, check: str, row: str, expected: str, found: str) -> Finding:
        return Finding(check, f"{row} of shard {self.shard}", expected, found)


class Ahead:
    """Rows in order, taken up to a number at a time."""

    def __init__(self, rows: Iterator[Hashed]) -> None:
        self._rows, self._next = rows, next(rows, None)

    def until(self, end: int) -> Iterator[Hashed]:
        """The next rows, as long as their numbers are below `end`."""
        while self._next is not None and self._next.number < end:
            yield self._next
            self._next = next(self._rows, None)


def _hash(placed: Placed) -> Hashed:
    index, kind, row = int(placed.number), placed.kind, placed.row
    name = _name(kind, row[ID[TABLES[kind].name]], index)
    try:
        return Hashed(index, kind, name, leaf_hash(leaf(kind, row)))
    except LeafError:
        return Hashed(index, kind, name, b"")


def _name(kind: Kind, id_: str, index: int) -> str:
    return f"{TABLES[kind].name} {id_}, leaf {index}"


def _leaves(nodes: list[bytes], begin: int, end: int) -> list[bytes] | None:
    """The leaf hashes among the nodes that leaves `begin` to `end` complete; None where nodes are missing."""
    first = nodes_before(begin)
    if not begin < end or len(nodes) != nodes_before(end) - first:
        return None
    return [nodes[nodes_before(number) - first] for number in range(begin, end)]


def _differing(
    begin: int, nodes: list[bytes], made: list[bytes], kept: Frontier, grown: Frontier
) -> Iterator[tuple[int, int]]:
    """The smallest ranges of leaves whose stored nodes are not those that the leaves make."""
    if nodes == made and kept == grown:
        return
    found, number, at = list[tuple[int, int]](), begin, 0
    while at < len(made):
        for level in range((~number & number + 1).bit_length()):
            if nodes[at] != made[at]:
                found.append((number + 1 - (1 << level), number + 1))
            at += 1
        number += 1
    place = 0
    for level in reversed(range(grown.size.bit_length())):
        if grown.size >> level & 1:
            ours = grown.hashes[(grown.size >> level + 1).bit_count()]
            if kept.hashes[(grown.size >> level + 1).bit_count()] != ours:
                found.append((place, place + (1 << level)))
            place += 1 << level
    for first, last in found:
        if not any(first <= one and other <= last and (one, other) != (first, last) for one, other in found):
            yield first, last
