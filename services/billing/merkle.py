"""The Merkle tree of RFC 6962, section 2.1: hashes, growth by appending, proofs and their verification. Pure.

A node (level, index) is the root of the complete subtree over leaves [index << level, index + 1 << level). It is
computed once, when the last of its leaves is appended, and never changes; everything else is put together from nodes.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

Reader = Callable[[int, int], bytes]
"""(level, index) -> the hash of that complete subtree."""


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf's bytes."""
    return hashlib.sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node from those of its two children."""
    return hashlib.sha256(b"\1" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """All that is needed to grow a tree of `size` leaves: the roots of its complete subtrees, the largest first."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.hashes) == self.size.bit_count(), "a frontier has one hash for each 1 in its size"

    def append(self, leaf_hash: bytes) -> Self:
        """The frontier after one more leaf."""
        return self.extend([leaf_hash])[0]

    def extend(self, leaf_hashes: Iterable[bytes]) -> tuple[Self, list[bytes]]:
        """The frontier after more leaves, and the nodes this completed: each leaf, then what it closed, upwards."""
        size, hashes, nodes = self.size, list(self.hashes), list[bytes]()
        for node in leaf_hashes:
            nodes.append(node)
            closed = size
            while closed & 1:
                node = node_hash(hashes.pop(), node)  # noqa: PLW2901 - the leaf's hash grows into its subtree's
                nodes.append(node)
                closed >>= 1
            hashes.append(node)
            size += 1
        return type(self)(size, tuple(hashes)), nodes

    def root(self) -> bytes:
        """The root of the whole tree."""
        return _fold(self.hashes) if self.hashes else EMPTY_ROOT

    def to_bytes(self) -> bytes:
        """The hashes, one after another."""
        return b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, size: int, hashes: bytes) -> Self:
        """The frontier that `to_bytes` wrote."""
        return cls(size, tuple(split(hashes)))


def split(hashes: bytes) -> list[bytes]:
    """Hashes that stand one after another."""
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def nodes_before(size: int) -> int:
    """How many nodes a tree of `size` leaves has: the place of leaf number `size` in the order of `extend`."""
    return 2 * size - size.bit_count()


def place(level: int, index: int) -> tuple[int, int]:
    """Where a node stands in the order of `extend`: (the leaf that completed it, its place among all nodes)."""
    leaf = (index + 1 << level) - 1
    return leaf, nodes_before(leaf) + level


def root_at(read: Reader, size: int) -> bytes:
    """The root of the tree's first `size` leaves."""
    return _root(read, 0, size) if size else EMPTY_ROOT


def inclusion_proof(read: Reader, index: int, size: int) -> list[bytes]:
    """The audit path, from the leaf upwards, of leaf `index` in the tree of `size` leaves (RFC 6962, 2.1.1)."""
    assert 0 <= index < size
    path, begin, end = list[bytes](), 0, size
    while end - begin > 1:
        middle = begin + _split_at(end - begin)
        if index < middle:
            path.append(_root(read, middle, end))
            end = middle
        else:
            path.append(_root(read, begin, middle))
            begin = middle
    return path[::-1]


def consistency_proof(read: Reader, first: int, second: int) -> list[bytes]:
    """The proof that the tree of `second` leaves only added to that of `first` (RFC 6962, 2.1.2)."""
    assert 0 <= first <= second
    if first in {0, second}:
        return []
    path, begin, end = list[bytes](), 0, second
    while first != end:
        middle = begin + _split_at(end - begin)
        if first <= middle:
            path.append(_root(read, middle, end))
            end = middle
        else:
            path.append(_root(read, begin, middle))
            begin = middle
    if begin:  # else the verifier has it: it is the first root itself
        path.append(_root(read, begin, end))
    return path[::-1]


def verify_inclusion(leaf_hash: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` proves the leaf at `index` in the tree with this root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, found = index, size - 1, leaf_hash
    for sibling in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            found = node_hash(sibling, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether `path` proves that the second tree begins with the first one (RFC 9162, 2.1.4.2)."""
    if not 0 <= first <= second:
        return False
    if first == second:
        return not path and first_root == second_root
    if first == 0:
        return not path and first_root == EMPTY_ROOT
    given = list(path) if first & (first - 1) else [first_root, *path]  # a power of two is a node by itself
    if not given:
        return False
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = given[0]
    for sibling in given[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _split_at(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _root(read: Reader, begin: int, end: int) -> bytes:
    """The root over leaves [begin, end), where `begin` is a multiple of a power of two that `end - begin` fits in."""
    parts = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        parts.append(read(level, begin >> level))
        begin += 1 << level
    return _fold(parts)


def _fold(roots: Sequence[bytes]) -> bytes:
    """One root from those of complete subtrees, the largest first."""
    *left, root = roots
    for hash_ in reversed(left):
        root = node_hash(hash_, root)
    return root
