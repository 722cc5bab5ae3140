"""Proofs for auditors: signed checkpoints, and that a leaf, or an earlier tree, is part of a later one.

Hashes are base64, as in a checkpoint. Proofs are made to signed sizes only, because nobody can check a root that was
never published.
"""

import base64
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Engine, Select, select

from services.billing import tree
from services.billing.database import Row, reading, row, rows
from services.billing.leaves import Kind, leaf
from services.billing.merkle import consistency_proof, inclusion_proof
from services.billing.tables import checkpoint, signed_checkpoint
from shared.errors import InvalidRequest, NotFound
from shared.events import utc_text


class Proofs:
    """Answers about the trees; each method is one consistent read, and blocks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def checkpoints(self, shard: int, after: int, limit: int) -> list[Row]:
        """Signed checkpoints by size, from the first one past `after`."""
        query = _signed(shard).where(signed_checkpoint.c.tree_size > after)
        with reading(self._engine) as connection:
            return rows(connection, query.order_by(signed_checkpoint.c.tree_size).limit(limit))

    def checkpoint(self, shard: int, size: int | None) -> dict[str, Any]:
        """The signed checkpoint of this size, or the newest. Raises NotFound."""
        with reading(self._engine) as connection:
            return checkpoint_json(_checkpoint(connection, shard, size))

    def inclusion(self, shard: int, index: int, size: int | None) -> dict[str, Any]:
        """The proof that the leaf at `index` is in the tree of this size, or the newest. Raises NotFound."""
        with reading(self._engine) as connection:
            signed = _checkpoint(connection, shard, size)
            if index >= signed["tree_size"]:
                raise NotFound(f"leaf {index} is not in the tree of {signed['tree_size']} leaves: ask for a larger one")
            return {
                "shard": shard,
                "leaf_index": index,
                "leaf_hash": _text(tree.proved(connection, shard, lambda read: read(0, index))),
                **_inclusion(connection, shard, index, signed),
            }

    def consistency(self, shard: int, first: int, second: int | None) -> dict[str, Any]:
        """The proof that the signed tree of `second` leaves, or the newest, begins with that of `first`.

        Raises InvalidRequest, NotFound.
        """
        if second is not None and first > second:
            raise InvalidRequest("first: no tree begins with a larger one: exchange first and second", param="first")
        with reading(self._engine) as connection:
            old, new = _checkpoint(connection, shard, first), _checkpoint(connection, shard, second)
            sizes = old["tree_size"], new["tree_size"]
            path = tree.proved(connection, shard, lambda read: consistency_proof(read, *sizes))
        return {
            "shard": shard,
            "first": old["tree_size"],
            "second": new["tree_size"],
            "path": _texts(path),
            "first_checkpoint": old["note"],
            "second_checkpoint": new["note"],
        }


def proof_of(connection: Connection, kind: Kind, booked: Row) -> dict[str, Any] | None:
    """The proof of a row by the first signed checkpoint that covers its leaf; None where there is none yet."""
    shard, index = booked["shard"], booked["leaf_index"]
    covering = _signed(shard).where(signed_checkpoint.c.tree_size > index)
    signed = row(connection, covering.order_by(signed_checkpoint.c.tree_size).limit(1))
    if signed is None:
        return None
    own = {"shard": shard, "leaf_index": index, "leaf": leaf(kind, booked).decode()}
    return own | _inclusion(connection, shard, index, signed)


def checkpoint_json(signed: Row) -> dict[str, Any]:
    """A signed checkpoint as auditors see it."""
    return {
        "shard": signed["shard"],
        "tree_size": signed["tree_size"],
        "root": _text(signed["root"]),
        "checkpoint": signed["note"],
        "recorded_at": utc_text(signed["recorded_at"]),
    }


def _inclusion(connection: Connection, shard: int, index: int, signed: Row) -> dict[str, Any]:
    size = signed["tree_size"]
    path = tree.proved(connection, shard, lambda read: inclusion_proof(read, index, size))
    return {"tree_size": size, "path": _texts(path), "checkpoint": signed["note"]}


def _signed(shard: int) -> Select[Any]:
    same = (checkpoint.c.shard == signed_checkpoint.c.shard) & (checkpoint.c.tree_size == signed_checkpoint.c.tree_size)
    both = select(signed_checkpoint, checkpoint.c.root).join(checkpoint, same)
    return both.where(signed_checkpoint.c.shard == shard)


def _checkpoint(connection: Connection, shard: int, size: int | None) -> Row:
    query = _signed(shard)
    if size is not None:
        query = query.where(signed_checkpoint.c.tree_size == size)
    if (found := row(connection, query.order_by(signed_checkpoint.c.tree_size.desc()).limit(1))) is None:
        what = "signed checkpoint" if size is None else f"signed checkpoint of {size} leaves"
        raise NotFound(f"shard {shard} has no {what}: GET /v1/checkpoints?shard={shard} lists what there is")
    return found


def _text(hash_: bytes) -> str:
    return base64.b64encode(hash_).decode()


def _texts(hashes: Iterable[bytes]) -> list[str]:
    return [_text(hash_) for hash_ in hashes]
