"""Tampering behind our back, by someone who may do everything to the database: it is found, and located, every time."""

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, func, select, text, update

from services.billing import migrations, spend
from services.billing.accounts import Accounts
from services.billing.checkpoint import PublicKey
from services.billing.database import connect, reading, rows
from services.billing.invariants import Finding, violations
from services.billing.keys import make_key
from services.billing.leaves import COLUMNS, Kind, leaf
from services.billing.ledger import Credit, Ledger
from services.billing.merkle import Frontier, leaf_hash
from services.billing.migrations.hardening import harden
from services.billing.publications import kept_inside, kept_outside, sorted_out
from services.billing.scan import ID, TABLES, page
from services.billing.signer import Signer
from services.billing.tables import api_key, checkpoint, ledger_entry, usage_record
from services.billing.verify import CHECKS, verify, work
from shared.ids import new_id
from tests.integration.billing.books import TEN_USD
from tests.unit.billing.events import usage

IDS = {"request_id", "entry_id", "reverses"}
KEY_OF_USAGE = {
    "id": usage().key_id,
    "workspace_id": "w",
    "digest": "0" * 64,
    "label": "app",
    "created_at": datetime(2026, 1, 1, tzinfo=UTC),
}
COLUMNS_OF = [(kind, name) for kind, names in COLUMNS.items() for name in (*names, "leaf_index")]


class Books:
    """Books with their checkpoints outside, and a way to tamper with them that is undone."""

    def __init__(self, engine: Engine, directory: Path, keys: list[PublicKey]) -> None:
        self.engine, self.directory, self.keys = engine, directory, keys

    @contextlib.contextmanager
    def unlocked(self) -> Iterator[Connection]:
        """A transaction in which nothing guards the books."""
        with self.engine.connect() as connection, connection.begin() as transaction:
            if self.engine.dialect.name == "sqlite":
                for name in connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
                    connection.execute(text(f"DROP TRIGGER {name}"))
                connection.execute(text("PRAGMA defer_foreign_keys = ON"))
                connection.execute(text("PRAGMA ignore_check_constraints = ON"))
            else:
                _unlock_postgresql(connection)
            yield connection
            transaction.rollback()

    def findings(self, connection: Connection, *, outside: bool = False) -> list[Finding]:
        """What verify finds; the checkpoints outside are shown to it only where a test says so."""
        shown = kept_outside(self.directory, self.keys) if outside else ()
        published, bad = sorted_out([*kept_inside(connection, self.keys), *shown])
        return [*bad, *verify(connection, published, lambda _: None)]


def _unlock_postgresql(connection: Connection) -> None:
    for name in connection.scalars(text("SELECT evtname FROM pg_event_trigger")).all():
        connection.execute(text(f"ALTER EVENT TRIGGER {name} DISABLE"))
    tables = (
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    )
    for name in connection.scalars(text(tables)).all():
        connection.execute(text(f"ALTER TABLE {name} DISABLE TRIGGER ALL"))
    checks = (
        "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c' AND coninhcount = 0"
        " AND connamespace = 'public'::regnamespace"
    )
    for name, constraint in connection.execute(text(checks)).all():
        connection.execute(text(f"ALTER TABLE {name} DROP CONSTRAINT {constraint}"))


@pytest.fixture
def written(engine: Engine, tmp_path: Path) -> Books:
    """Thirteen leaves in five batches, signed in between and at the end."""
    return write_all(engine, tmp_path)


def write_all(engine: Engine, tmp_path: Path) -> Books:
    for name in "aw":
        Accounts(engine).create_workspace(name, name)
    make_key(tmp_path / "key")
    key = make_key(tmp_path / "key")  # the log's second key: the first one is remembered
    ledger, signer = Ledger(engine), Signer(engine, 1, key, tmp_path / "checkpoints")
    ledger.credit(Credit("w", TEN_USD, "payment-1", "admin", "for tests"))
    ledger.credit(Credit("a", TEN_USD, "payment-2", "admin"))
    signer.sign_all()
    ledger.record([usage(), usage("a", outcome="upstream_failed"), usage("a")])
    ledger.record([usage()])
    signer.sign_all()
    ledger.record([usage("a"), usage(user_digest="0" * 64)])
    signer.sign_all()
    return Books(engine, tmp_path / "checkpoints", [key.public])


@pytest.fixture
def tampered(written: Books) -> Iterator[Connection]:
    with written.unlocked() as connection:
        yield connection


def test_books_as_they_were_written_have_no_findings(written: Books) -> None:
    with reading(written.engine) as connection:
        assert written.findings(connection, outside=True) == []


def test_progress_is_told_of_the_walk_and_of_every_query_and_reaches_its_end_with_the_last(
    engine: Engine, ledger: Ledger
) -> None:
    ledger.record([usage(outcome="upstream_failed") for _ in range(40)])
    told = list[int]()
    with reading(engine) as connection:
        assert list(verify(connection, [], told.append)) == []
    assert told == [40, *[2] * (len(CHECKS) - 1)]
    assert sum(told) == work(40)


@pytest.mark.parametrize(("kind", "name"), COLUMNS_OF)
def test_a_change_of_any_column_is_found_at_its_leaf(
    written: Books, tampered: Connection, kind: Kind, name: str
) -> None:
    table, numbers = TABLES[kind], leaves_of(tampered, kind)
    for number in (numbers[0], numbers[len(numbers) // 2], numbers[-1]):
        before = rows(tampered, select(table))
        with tampered.begin_nested() as undone:
            tampered.execute(update(table).where(table.c.leaf_index == number).values({name: changed(kind, name)}))
            assert rows(tampered, select(table)) != before
            found = written.findings(tampered)
            undone.rollback()
        assert [finding for finding in found if f"leaf {number} " in finding.row and "shard 0" in finding.row], found


def leaves_of(connection: Connection, kind: Kind) -> list[int]:
    """The numbers of a kind's leaves, in order."""
    index = TABLES[kind].c.leaf_index
    return list(connection.scalars(select(index).order_by(index)))


def changed(kind: Kind, name: str) -> object:
    """Another value of the column's type."""
    column = TABLES[kind].c[name]
    type_ = COLUMNS[kind].get(name, "integer")
    if type_ == "integer":
        return func.coalesce(column, 0) + 10**6  # further than any constraint would let two rows meet
    if type_ == "boolean":
        return ~column
    if type_ == "moment":
        return datetime(2026, 2, 1, tzinfo=UTC)
    return new_id() if name in IDS else func.coalesce(column, "") + "x"


@pytest.mark.parametrize(("kind", "name"), COLUMNS_OF)
def test_the_same_value_in_another_form_is_found_at_its_leaf(tmp_path: Path, kind: Kind, name: str) -> None:
    """SQLite keeps what it is given where the schema was made lax, and compares the form, not what it means."""
    engine, table = connect(f"sqlite:///{tmp_path}/ledger.db"), TABLES[kind].name
    migrations.upgrade(engine)
    books, number, kept = write_all(engine, tmp_path), 0, None
    with books.unlocked() as connection:
        columns = ", ".join(TABLES[kind].c.keys())
        connection.execute(text(f"CREATE TEMP TABLE copied ({columns})"))
        connection.execute(text(f"INSERT INTO copied SELECT {columns} FROM {table}"))
        connection.execute(text(f"ALTER TABLE copied RENAME TO {table}"))
        assert books.findings(connection) == []
        held = connection.execute(text(f"SELECT leaf_index, {name} FROM {table} WHERE {name} IS NOT NULL")).all()
        for number, kept in (held[0], held[-1]) if held else ():
            for other in other_forms(kind, name, kept):
                change = text(f"UPDATE {table} SET {name} = :other WHERE leaf_index = {number}")
                with connection.begin_nested() as undone:
                    connection.execute(change, {"other": other})
                    found = books.findings(connection)
                    undone.rollback()
                assert [finding for finding in found if f", leaf {number} of " in finding.row], (other, found)
    engine.dispose()


def other_forms(kind: Kind, name: str, kept: Any) -> list[Any]:
    """What stands for the same to whoever reads it kindly."""
    if name == "leaf_index":
        return [str(kept)]
    match COLUMNS[kind][name]:
        case "integer":
            return [float(kept), str(kept)]
        case "boolean":
            return [2 if kept else 0.0, float(kept), str(kept)]
        case "moment":
            moment = datetime.fromisoformat(kept)
            elsewhere = moment.astimezone(timezone(timedelta(hours=1))).isoformat(timespec="microseconds")
            return [elsewhere, kept.replace("Z", "+00:00"), kept.replace("T", " "), kept.lower(), f"{kept[:-1]}0Z"]
    spaced = json.dumps(json.loads(kept)) if name in {"attempts", "upstream_usage"} else None
    return [kept.encode(), *(form for form in (spaced, kept.upper() if name in IDS else None) if form)]


def test_a_record_made_cheaper_together_with_its_debit_is_found_by_its_leaf_and_by_the_sums(
    written: Books, tampered: Connection
) -> None:
    last = tampered.scalar(select(func.max(ledger_entry.c.leaf_index)))
    tampered.execute(update(ledger_entry).where(ledger_entry.c.leaf_index == last).values(amount_pico=-1))
    found = {finding.check for finding in written.findings(tampered)}
    assert {"row", "debit", "sequence", "trial balance"} <= found


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("UPDATE usage_record SET cost_pico = cost_pico + 1 WHERE cost_pico > 0", "cost"),
        ("UPDATE usage_record SET cost_pico = 1 WHERE cost_pico = 0", "cost"),
        ("DELETE FROM ledger_entry WHERE contra = 'revenue'", "debit"),
        ("UPDATE ledger_entry SET contra = 'promo' WHERE contra = 'revenue'", "debit"),
        ("DELETE FROM usage_record", "stray debit"),
        ("INSERT INTO usage_record SELECT * FROM usage_record", "request once"),
        ("INSERT INTO ledger_entry SELECT * FROM ledger_entry", "debit once"),
        ("DELETE FROM ledger_entry WHERE seq = 2", "sequence"),
        ("UPDATE ledger_entry SET balance_after_pico = balance_after_pico + 1 WHERE seq = 1", "sequence"),
        ("UPDATE ledger_entry SET balance_after_pico = balance_after_pico + 1 WHERE seq > 2", "trial balance"),
        ("UPDATE ledger_entry SET reverses = entry_id WHERE seq = 1", "reversal"),
        ("UPDATE ledger_entry SET reverses = entry_id WHERE contra = 'revenue'", "reversal"),
        ("UPDATE workspace SET id = 'zzz' WHERE id = 'a'", "orphan"),
        ("DELETE FROM workspace WHERE id = 'w'", "orphan"),
        ("UPDATE api_key SET id = 'zzz'", "orphan"),
    ],
)
def test_rows_that_contradict_each_other_are_named_whatever_constraints_were_dropped(
    written: Books, tampered: Connection, change: str, check: str
) -> None:
    tampered.execute(api_key.insert(), KEY_OF_USAGE)
    assert list(violations(tampered, check)) == []
    copy_without_constraints(tampered)
    tampered.execute(text(change))
    found = list(violations(tampered, check))
    assert found
    assert all(finding.expected != finding.found for finding in found)


def copy_without_constraints(tampered: Connection) -> None:
    """Copies of the tables, which stand before the real ones."""
    for name in ("usage_record", "ledger_entry", "checkpoint"):
        tampered.execute(text(f"CREATE TEMP TABLE copied AS SELECT * FROM {name}"))
        tampered.execute(text(f"ALTER TABLE copied RENAME TO {name}"))


def test_an_auditor_who_may_only_read_can_verify(postgres_url: str) -> None:
    engine = connect(postgres_url)
    migrations.upgrade(engine)
    Accounts(engine).create_workspace("w", "w")
    Ledger(engine).record([usage()])
    harden(engine)
    with reading(engine) as connection:
        connection.execute(text("SET ROLE ledger_auditor"))
        assert list(verify(connection, [], lambda _: None)) == []
    engine.dispose()


@pytest.mark.parametrize("kind", TABLES)
def test_the_last_row_deleted_is_found(written: Books, tampered: Connection, kind: Kind) -> None:
    number = tampered.scalar(select(func.max(TABLES[kind].c.leaf_index)))
    tampered.execute(TABLES[kind].delete().where(TABLES[kind].c.leaf_index == number))
    found = written.findings(tampered)
    assert (f"leaf {number} of shard 0", "none") in {(finding.row, finding.found) for finding in found}


def test_two_rows_that_changed_places_are_both_found(written: Books, tampered: Connection) -> None:
    one, other = tampered.scalars(select(usage_record.c.leaf_index).order_by(usage_record.c.leaf_index).limit(2)).all()
    for old, new in ((one, 10**6), (other, one), (10**6, other)):
        tampered.execute(update(usage_record).where(usage_record.c.leaf_index == old).values(leaf_index=new))
    located = " ".join(finding.row for finding in written.findings(tampered))
    assert f"leaf {one} " in located
    assert f"leaf {other} " in located


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("index", [-1, 13, 99])
def test_a_row_added_beside_the_tree_is_found_and_named(
    written: Books, tampered: Connection, kind: Kind, index: int
) -> None:
    table, forged = TABLES[kind], {ID[TABLES[kind].name]: new_id(), "leaf_index": index}
    last = tampered.execute(select(table).order_by(table.c.leaf_index.desc()).limit(1)).one()._asdict()
    if kind == "entry/1":
        forged |= {"seq": last["seq"] + 1, "request_id": None, "reference": "forged"}
    tampered.execute(table.insert(), last | forged)
    name = f"{table.name} {forged[ID[table.name]]}, leaf {index} of shard 0"
    assert name in {finding.row for finding in written.findings(tampered)}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize(
    ("column", "value"), [("leaf_index", "NULL"), ("leaf_index", "2.5"), ("shard", "NULL"), ("shard", "0.5")]
)
def test_a_row_whose_place_no_constraint_would_let_in_is_found_and_named(
    written: Books, tampered: Connection, kind: Kind, column: str, value: str
) -> None:
    copy_without_constraints(tampered)
    name = TABLES[kind].name
    id_ = tampered.scalar(text(f"SELECT min(CAST({ID[name]} AS TEXT)) FROM {name}"))
    if tampered.dialect.name == "postgresql":
        tampered.execute(text(f"ALTER TABLE {name} ALTER {column} TYPE NUMERIC"))
    tampered.execute(text(f"UPDATE {name} SET {column} = {value} WHERE CAST({ID[name]} AS TEXT) = '{id_}'"))
    assert f"{name} {id_}, " in " ".join(finding.row for finding in written.findings(tampered))


@pytest.mark.parametrize(
    ("column", "value"),
    [("shard", "NULL"), ("tree_size", "NULL"), ("tree_size", "6.5"), ("first_node", "NULL"), ("first_node", "0.5"),
     ("root", "NULL"), ("frontier", "NULL"), ("nodes", "NULL")],
)  # fmt: skip
def test_a_checkpoint_that_no_constraint_would_let_in_is_found(
    written: Books, tampered: Connection, column: str, value: str
) -> None:
    copy_without_constraints(tampered)
    if tampered.dialect.name == "postgresql" and column in {"shard", "tree_size", "first_node"}:
        tampered.execute(text(f"ALTER TABLE checkpoint ALTER {column} TYPE NUMERIC"))
    tampered.execute(text(f"UPDATE checkpoint SET {column} = {value} WHERE tree_size = 7"))
    found = written.findings(tampered)
    assert found
    assert "the check itself" not in {finding.row for finding in found}


def test_a_time_that_no_program_can_read_is_found_and_named(written: Books, tampered: Connection) -> None:
    unread = ["'zz'"] if tampered.dialect.name == "sqlite" else ["'infinity'", "'-infinity'", "'0044-03-15 BC'"]
    for kind, table in TABLES.items():
        id_ = tampered.scalar(select(table.c[ID[table.name]]).order_by(table.c.leaf_index).limit(1))
        for value in unread:
            with tampered.begin_nested() as undone:
                tampered.execute(
                    text(f"UPDATE {table.name} SET recorded_at = {value} WHERE {ID[table.name]} = '{id_}'")
                )
                found = written.findings(tampered)
                undone.rollback()
            assert [one for one in found if one.row.startswith(f"{table.name} {id_}, leaf ")], (kind, value, found)
            assert "the check itself" not in {finding.row for finding in found}


@pytest.mark.parametrize("number", range(13))
def test_a_leaf_hash_rewritten_along_with_its_row_is_located_by_the_nodes_above_it(
    written: Books, tampered: Connection, number: int
) -> None:
    kind, table = next(
        (kind, table) for kind, table in TABLES.items()
        if tampered.scalar(select(func.count()).where(table.c.leaf_index == number))
    )  # fmt: skip
    column = "key_id" if kind == "usage/1" else "actor"
    tampered.execute(update(table).where(table.c.leaf_index == number).values({column: "mallory"}))
    ((_, _, row),) = page(tampered, 0, number, number + 1)
    rewrite_leaf(tampered, number, leaf_hash(leaf(kind, row)))
    ranges = [finding.row for finding in written.findings(tampered) if finding.check in {"node", "published"}]
    located = [tuple(int(word) for word in row.split() if word.isdigit())[:2] for row in ranges]
    assert located, "it is found"
    assert min(last - first for first, last in located if first <= number <= last) <= 3, "within four leaves"


def rewrite_leaf(connection: Connection, number: int, new: bytes) -> None:
    """Put another leaf hash in the place of one, and change nothing else."""
    after = select(checkpoint).where(checkpoint.c.tree_size > number).order_by(checkpoint.c.tree_size).limit(1)
    stored = connection.execute(after).one()
    at = (2 * number - number.bit_count() - stored.first_node) * 32
    nodes = stored.nodes[:at] + new + stored.nodes[at + 32 :]
    connection.execute(update(checkpoint).where(checkpoint.c.tree_size == stored.tree_size).values(nodes=nodes))


def rewrite_tree(connection: Connection) -> None:
    """Make every checkpoint anew from the rows as they are, without a trace inside."""
    tree, sizes = Frontier(), connection.scalars(select(checkpoint.c.tree_size).order_by(checkpoint.c.tree_size)).all()
    for size in sizes:
        rows = page(connection, 0, tree.size, size)
        tree, nodes = tree.extend([leaf_hash(leaf(kind, row)) for _, kind, row in rows])
        values = {"root": tree.root(), "frontier": tree.to_bytes(), "nodes": b"".join(nodes)}
        connection.execute(update(checkpoint).where(checkpoint.c.tree_size == size).values(values))


def rewrite_spend(connection: Connection) -> None:
    """What keys spent, as the records have it now."""
    connection.execute(text("DELETE FROM key_spend"))
    spend.add(connection, rows(connection, select(usage_record)))


def test_a_rewrite_of_everything_is_found_by_the_checkpoints_outside_and_its_place_is_narrowed_down(
    written: Books, tampered: Connection
) -> None:
    number = tampered.scalar(select(func.max(usage_record.c.leaf_index)))
    tampered.execute(update(usage_record).where(usage_record.c.leaf_index == number).values(key_id="mallory"))
    rewrite_tree(tampered)
    rewrite_spend(tampered)
    tampered.execute(text("DELETE FROM signed_checkpoint"))
    assert written.findings(tampered) == [], "inside, nothing can tell"
    (finding,) = written.findings(tampered, outside=True)
    assert (finding.check, finding.row) == ("published", "leaves 9 to 12 of shard 0")
    assert str(written.directory) in finding.expected


def test_a_tail_cut_off_with_all_its_traces_is_found_by_the_checkpoints_outside(
    written: Books, tampered: Connection
) -> None:
    for table in (ledger_entry, usage_record):
        tampered.execute(table.delete().where(table.c.leaf_index >= 9))
    tampered.execute(text("DELETE FROM signed_checkpoint WHERE tree_size > 9"))
    tampered.execute(text("DELETE FROM checkpoint WHERE tree_size > 9"))
    rewrite_spend(tampered)
    assert written.findings(tampered) == [], "inside, nothing can tell"
    (finding,) = written.findings(tampered, outside=True)
    assert (finding.check, finding.row, finding.found) == ("tail", "leaves 9 to 12 of shard 0", "9 leaves")


def test_books_that_are_wholly_gone_are_missed(written: Books, tampered: Connection) -> None:
    for name in ("signed_checkpoint", "checkpoint", "ledger_entry", "usage_record", "key_spend"):
        tampered.execute(text(f"DELETE FROM {name}"))
    assert {finding.check for finding in written.findings(tampered, outside=True)} == {"tail"}


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("DELETE FROM checkpoint WHERE tree_size = 7", "checkpoint"),
        ("UPDATE checkpoint SET first_node = first_node + 1 WHERE tree_size = 7", "checkpoint"),
        ("UPDATE checkpoint SET root = (SELECT root FROM checkpoint WHERE tree_size = 1) WHERE tree_size = 9", "root"),
        ("UPDATE checkpoint SET frontier = substr(frontier, 1, 0) WHERE tree_size = 13", "frontier"),
        ("UPDATE checkpoint SET frontier = substr(frontier, 1, 40) WHERE tree_size = 7", "frontier"),
        ("UPDATE signed_checkpoint SET note = note || 'x'", "signature"),
        ("UPDATE signed_checkpoint SET note = (SELECT max(note) FROM signed_checkpoint)", "signature"),
    ],
)
def test_a_checkpoint_that_was_tampered_with_is_found(
    written: Books, tampered: Connection, change: str, check: str
) -> None:
    tampered.execute(text(change))
    found = written.findings(tampered)
    assert check in {finding.check for finding in found}, found


def test_a_checkpoints_time_which_nothing_checks_does_not_stop_the_check(written: Books, tampered: Connection) -> None:
    unread = "'zz'" if tampered.dialect.name == "sqlite" else "'infinity'"
    tampered.execute(text(f"UPDATE checkpoint SET recorded_at = {unread}"))
    assert written.findings(tampered, outside=True) == []


def test_a_checkpoint_of_another_key_or_altered_outside_is_found(written: Books, tmp_path: Path) -> None:
    note = next(path for path in sorted(written.directory.rglob("0*")) if path.is_file())
    note.write_text(note.read_text().replace("\n2\n", "\n3\n"))
    with reading(written.engine) as connection:
        (finding,) = written.findings(connection, outside=True)
    assert (finding.check, finding.row) == ("signature", str(note))
