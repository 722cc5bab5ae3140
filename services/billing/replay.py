"""The books built anew, from an export, in an empty database of either kind: the same leaves, so the same roots."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import orjson
from sqlalchemy import Connection, Engine, insert, select
from sqlalchemy.exc import DBAPIError

from services.billing import migrations, spend, tree
from services.billing.append import append
from services.billing.database import Row, reading, refuses, writing
from services.billing.export import TREE
from services.billing.leaves import LeafError, read
from services.billing.merkle import Frontier
from services.billing.scan import Placed, sizes
from services.billing.tables import workspace

BATCH = 1000  # leaves in one transaction: past this, larger ones no longer pay


class ReplayError(Exception):
    """The file does not prove itself; the message says where."""


class Rootless(Exception):
    """The file does not say what it is to prove."""


class Occupied(Exception):
    """The database is not empty."""


def replay(lines: Iterable[bytes], engine: Engine, progress: Callable[[int], None] = lambda _: None) -> dict[int, str]:
    """Build the books and return each shard's root, in hex. Raises ReplayError, Rootless, Occupied.

    What was built before an error stays, unproven. The names of workspaces are no part of the books: each is called by
    its id.
    """
    migrations.upgrade(engine)
    with reading(engine) as connection:
        if sizes(connection):
            raise Occupied(f"there are books in {engine.url!r} already: give an empty database")
    heads = dict[int, tuple[int, str]]()
    leaves, done = _leaves(lines, heads), 0
    while batch := list(islice(leaves, BATCH)):
        _write(engine, batch)
        done += len(batch)
        progress(done)
    with reading(engine) as connection:
        made = {shard: tree.frontier(connection, shard) for shard in sizes(connection)}
    _compare(heads, made)
    return {shard: frontier.root().hex() for shard, frontier in made.items()}


def _leaves(lines: Iterable[bytes], heads: dict[int, tuple[int, str]]) -> Iterator[Placed]:
    """The leaves in a file; what it says of its trees goes into `heads`."""
    for number, line in enumerate(lines, 1):
        try:
            if line.startswith(b'{"k":"' + TREE.encode()):
                head = orjson.loads(line)
                heads[int(head["shard"])] = (int(head["tree_size"]), head["root"])
            else:
                kind, row = read(line.removesuffix(b"\n"))
                _require(row)
                yield Placed(number, kind, row)
        except (LeafError, KeyError, TypeError, ValueError) as error:
            raise ReplayError(f"line {number}: {error}") from None


def _require(row: Row) -> None:
    """Raise LeafError where the row lacks what is reckoned with here, before the database checks the rest."""
    for name in ("shard", "workspace_id", "recorded_at", "cost_pico", "key_id"):
        if name in row and row[name] is None:
            raise LeafError(f"{name} is null")


def _write(engine: Engine, batch: list[Placed]) -> None:
    """Add a batch in one transaction; where the database refuses it, line by line, to learn which line it is."""
    try:
        with writing(engine, *{row["shard"] for _, _, row in batch}) as connection:
            _append(connection, batch)
    except DBAPIError as error:
        if not refuses(error):
            raise
        if len(batch) == 1:
            raise ReplayError(f"line {batch[0].number}: the database refuses it: {error.orig}") from None
        for line in batch:
            _write(engine, [line])


def _append(connection: Connection, batch: list[Placed]) -> None:
    names = {row["workspace_id"]: row["recorded_at"] for _, _, row in batch}
    for known in connection.scalars(select(workspace.c.id).where(workspace.c.id.in_(names))):
        del names[known]
    if names:
        made = [{"id": id_, "name": id_, "strict": False, "created_at": at} for id_, at in names.items()]
        connection.execute(insert(workspace), made)
    spend.add(connection, [row for _, kind, row in batch if kind == "usage/1"])
    for shard in {row["shard"] for _, _, row in batch}:
        append(connection, shard, [(kind, row) for _, kind, row in batch if row["shard"] == shard])


def _compare(heads: dict[int, tuple[int, str]], made: dict[int, Frontier]) -> None:
    if not heads:
        raise Rootless("the export is empty or has no end line: fetch it anew, whole")
    for shard in heads.keys() | made.keys():
        found = made.get(shard, Frontier())
        if (found.size, found.root().hex()) != heads.get(shard):
            size, root = heads.get(shard, (0, "none"))
            raise ReplayError(
                f"shard {shard}: the file says {size} leaves and root {root}, "
                f"but its lines make {found.size} and {found.root().hex()}"
            )
