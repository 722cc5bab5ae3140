"""The books as files: JSON Lines of leaves, or a table of one kind of row as CSV.

A line of the JSON Lines is, byte for byte, the leaf that was hashed into the tree: whoever has the file can hash it
again. A whole export ends with one line for each shard that says how large its tree was and what its root is, so that
a file that was cut short, or changed, is known for it; `opentoken replay` builds the books anew from it.
"""

import csv
import heapq
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Final

import orjson
from sqlalchemy import ColumnElement, Connection, Engine, Table, select

from services.billing.books import no_workspace
from services.billing.database import reading
from services.billing.leaves import COLUMNS, Kind, leaf
from services.billing.ledger import heads
from services.billing.scan import PAGE, TABLES, Placed, rows_of, sizes
from services.billing.tables import checkpoint
from shared.events import utc_text

TREE: Final = "tree/1"
"""The `k` of the lines at the end."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows: of a workspace, recorded from `start` up to `end`; by default all."""

    workspace_id: str | None = None
    start: datetime | None = None
    end: datetime | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self == Selection()

    def conditions(self, table: Table) -> Iterator[ColumnElement[bool]]:
        """The same in SQL."""
        if self.workspace_id is not None:
            yield table.c.workspace_id == self.workspace_id
        if self.start is not None:
            yield table.c.recorded_at >= self.start
        if self.end is not None:
            yield table.c.recorded_at < self.end


def jsonl(engine: Engine, selection: Selection) -> Iterator[bytes]:
    """The export in pieces, each from a read of its own: every leaf in the order of the trees, shard by shard.

    Raises NotFound before the first piece.
    """
    with reading(engine) as connection:
        trees = _trees(connection, selection)
        roots = b"".join(_root(connection, shard, size) for shard, size in trees.items())
    for rows in _pages(engine, trees, tuple(TABLES), selection):
        yield b"".join(leaf(kind, row) + b"\n" for _, kind, row in rows)
    if selection.whole:
        yield roots


def table(engine: Engine, kind: Kind, selection: Selection) -> Iterator[bytes]:
    """The rows of one kind as CSV, in pieces; the first one is the header. What is null is empty.

    Raises NotFound before the first piece.
    """
    names = ("leaf_index", *COLUMNS[kind])
    with reading(engine) as connection:
        trees = _trees(connection, selection)
    yield _csv([names])
    for rows in _pages(engine, trees, (kind,), selection):
        yield _csv([(index, *map(_cell, row.values())) for index, _, row in rows])


def _trees(connection: Connection, selection: Selection) -> dict[int, int]:
    """The sizes of the trees. Raises NotFound where the workspace selected does not exist."""
    if selection.workspace_id is not None and not heads(connection, [selection.workspace_id]):
        raise no_workspace(selection.workspace_id)
    return sizes(connection)


def _pages(
    engine: Engine, trees: dict[int, int], kinds: tuple[Kind, ...], selection: Selection
) -> Iterator[list[Placed]]:
    for shard, size in trees.items():
        for begin in range(0, size, PAGE):
            end = min(begin + PAGE, size)
            with reading(engine) as connection:
                parts = [
                    rows_of(connection, kind, shard, begin, end, *selection.conditions(TABLES[kind])) for kind in kinds
                ]
                rows = list(heapq.merge(*parts, key=itemgetter(0)))
            yield rows  # with the connection given back: whoever downloads may take their time


def _root(connection: Connection, shard: int, size: int) -> bytes:
    of_tree = (checkpoint.c.shard == shard) & (checkpoint.c.tree_size == size)
    root: bytes = connection.execute(select(checkpoint.c.root).where(of_tree)).scalar_one()
    head = {"k": TREE, "root": root.hex(), "shard": str(shard), "tree_size": str(size)}
    return orjson.dumps(head, option=orjson.OPT_APPEND_NEWLINE)


def _csv(rows: list[tuple[object, ...]]) -> bytes:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return utc_text(value)
    return str(value).lower() if isinstance(value, bool) else value
