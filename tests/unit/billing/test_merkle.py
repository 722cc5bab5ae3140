import functools
import random
from collections.abc import Sequence

import pytest

from services.billing import merkle
from services.billing.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    place,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from tests.unit.billing import rfc6962

# From the reference implementation of RFC 6962: eight leaves, and the roots of the trees of the first 0 to 8 of them.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def leaf(number: int) -> bytes:
    return b"leaf %d" % number


@functools.cache
def tree(size: int) -> tuple[Frontier, Sequence[bytes]]:
    """The frontier, and all nodes in the order in which they were completed."""
    return Frontier().extend(leaf_hash(leaf(number)) for number in range(size))


def reader(size: int) -> merkle.Reader:
    nodes = tree(size)[1]
    return lambda level, index: nodes[place(level, index)[1]]


def check(size: int, indexes: Sequence[int], firsts: Sequence[int]) -> None:
    """Roots and proofs of the tree of this size are those of the RFC, and verify; nothing else does."""
    leaves, read = [leaf(number) for number in range(size)], reader(size)
    root = rfc6962.mth(leaves)
    assert tree(size)[0].root() == root_at(read, size) == root
    for index in indexes:
        path = inclusion_proof(read, index, size)
        assert path == rfc6962.path(index, leaves)
        assert verify_inclusion(leaf_hash(leaf(index)), index, size, path, root)
        assert not verify_inclusion(leaf_hash(leaf(size)), index, size, path, root)
        assert not verify_inclusion(leaf_hash(leaf(index)), index, size, [*path, root], root)
        assert not verify_inclusion(leaf_hash(leaf(index)), (index + 1) % size, size, path, root) or size == 1
        assert not path or not verify_inclusion(leaf_hash(leaf(index)), index, size, path[:-1], root)
    for first in firsts:
        path = consistency_proof(read, first, size)
        old = tree(first)[0].root()
        assert path == ([] if first in {0, size} else rfc6962.proof(first, leaves))
        assert verify_consistency(first, size, old, root, path)
        assert not verify_consistency(first, size, leaf_hash(old), root, path)
        assert not verify_consistency(first, size, old, root, [*path, root])
        assert first == 0 or not verify_consistency(first, size, old, leaf_hash(root), path)
        assert not path or not verify_consistency(first, size, old, root, path[:-1])


def test_the_roots_of_the_published_leaves_are_the_published_roots() -> None:
    for size, root in enumerate(ROOTS):
        assert Frontier().extend(map(leaf_hash, LEAVES[:size]))[0].root().hex() == root


@pytest.mark.parametrize("size", range(1, 66))
def test_every_proof_of_a_small_tree_is_the_rfcs_and_verifies_and_no_altered_one_does(size: int) -> None:
    check(size, range(size), range(size + 1))


@pytest.mark.parametrize("size", [127, 128, 129, 255, 256, 257, 1000, 1023, 1024])
def test_proofs_of_a_larger_tree_are_the_rfcs_and_verify(size: int) -> None:
    chosen = random.Random(size).sample(range(size), 6)
    check(size, [0, size - 1, *chosen], [0, 1, size // 2, size - 1, size, *chosen])


@pytest.mark.long
@pytest.mark.parametrize("size", range(1, 1025))
def test_every_tree_up_to_1024_leaves_proves_every_leaf_and_every_beginning(size: int) -> None:
    read, (frontier, _) = reader(size), tree(size)
    assert frontier.root() == root_at(read, size) == rfc6962.mth([leaf(number) for number in range(size)])
    for index in range(size):
        path = inclusion_proof(read, index, size)
        assert verify_inclusion(leaf_hash(leaf(index)), index, size, path, frontier.root())
        path = consistency_proof(read, index + 1, size)
        assert verify_consistency(index + 1, size, tree(index + 1)[0].root(), frontier.root(), path)
    chosen = random.Random(size).sample(range(size), min(size, 3))
    check(size, chosen, chosen)


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 100_003])
def test_a_tree_of_many_leaves_proves_what_it_holds(size: int) -> None:
    read, root = reader(size), tree(size)[0].root()
    for index in (0, size // 3, size - 1):
        path = inclusion_proof(read, index, size)
        assert verify_inclusion(leaf_hash(leaf(index)), index, size, path, root)
        old = root_at(read, index + 1)
        assert verify_consistency(index + 1, size, old, root, consistency_proof(read, index + 1, size))


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 7, 8, 40, 99, 100])
def test_a_tree_grown_in_pieces_is_the_tree_grown_at_once(cut: int) -> None:
    hashes = [leaf_hash(leaf(number)) for number in range(100)]
    first, nodes = Frontier().extend(hashes[:cut])
    kept = Frontier.from_bytes(first.size, first.to_bytes())
    whole, more = kept.extend(hashes[cut:])
    assert (whole, nodes + more) == tree(100)
    assert len(nodes) == merkle.nodes_before(cut)
    assert functools.reduce(Frontier.append, hashes, Frontier()) == whole


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 4), (4, 4), (5, 4)])
def test_no_path_proves_a_leaf_outside_the_tree(index: int, size: int) -> None:
    assert not verify_inclusion(EMPTY_ROOT, index, size, [], EMPTY_ROOT)


@pytest.mark.parametrize(("first", "second"), [(2, 1), (-1, 1), (3, 4)])
def test_no_empty_path_proves_that_a_tree_grew(first: int, second: int) -> None:
    assert not verify_consistency(first, second, EMPTY_ROOT, EMPTY_ROOT, [])
