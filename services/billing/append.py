"""Rows into the books: each gets its leaf, and is inserted as that leaf's own text.

What was hashed is what the database takes in, character for character. On PostgreSQL it takes in records while the
leaves of the next ones are made; entries come after all of their records, to which they refer.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection

from services.billing import tree
from services.billing.database import Row, insert_rows
from services.billing.leaves import COLUMNS, Kind, Text, leaf_of, texts
from services.billing.merkle import leaf_hash
from services.billing.scan import TABLES
from services.billing.stages import stage

CHUNK = 256  # rows between two looks at the clock: of some 10 µs each


def append(connection: Connection, shard: int, booked: Sequence[tuple[Kind, Row]]) -> int:
    """Add rows, one at least, to a shard whose lock the caller holds; the number of the first one's leaf.

    Raises LeafError, DBAPIError.
    """
    growth = tree.Growth(connection, shard)
    first, entries = growth.size, list[list[Text]]()

    def records() -> Iterator[list[Text]]:
        for begin in range(0, len(booked), CHUNK):
            with stage("tree"):
                made = [(kind, texts(kind, row)) for kind, row in booked[begin : begin + CHUNK]]
                growth.add([leaf_hash(leaf_of(kind, values)) for kind, values in made])
            for number, (kind, values) in enumerate(made, first + begin):
                values.append(str(number))
                if kind == "entry/1":
                    entries.append(values)
                else:
                    yield values

    with stage("usage_record"):
        _insert(connection, "usage/1", records())
    with stage("ledger_entry"):
        _insert(connection, "entry/1", entries)
    with stage("tree"):
        growth.keep(booked[-1][1]["recorded_at"])
    return first


def _insert(connection: Connection, kind: Kind, rows: Iterator[list[Text]] | list[list[Text]]) -> None:
    insert_rows(connection, TABLES[kind].name, (*COLUMNS[kind], "leaf_index"), rows)
