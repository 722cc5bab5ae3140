from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert
from sqlalchemy.exc import IntegrityError

from services.billing.batch import Head, Terms
from services.billing.database import connect
from services.billing.keys import make_key
from services.billing.ledger import Credit, Ledger
from services.billing.signer import Signer
from services.billing.tables import MAX_BALANCE_PICO, admin_log, ledger_entry
from shared.ids import new_id
from tests.integration.billing.books import TEN_USD, books
from tests.unit.billing.events import COST_PICO, usage

TABLES = ("usage_record", "ledger_entry", "checkpoint", "signed_checkpoint", "admin_log")
NOW = datetime.now(UTC)
ANYWHERE = ("UPDATE {table} SET recorded_at = recorded_at", "DELETE FROM {table}")
CHANGES = {
    "sqlite": (*ANYWHERE, "INSERT OR REPLACE INTO {table} SELECT * FROM {table}"),
    "postgresql": (
        *ANYWHERE,
        "TRUNCATE {table} CASCADE",
        "UPDATE {table} SET recorded_at = recorded_at WHERE false",
        "DO 'BEGIN SET LOCAL session_replication_role = replica; DELETE FROM {table}; END'",
    ),
}


@pytest.fixture
def written(engine: Engine, ledger: Ledger, tmp_path: Path) -> Engine:
    """Books with two entries and a record, and with what is kept beside them."""
    ledger.credit(Credit("w", TEN_USD, "payment-1", "admin"))
    ledger.record([usage()])
    Signer(engine, 1, make_key(tmp_path / "signing.key"), None).sign_all()
    call = {"id": new_id(), "actor": "admin", "method": "POST", "path": "/", "body": "", "recorded_at": NOW}
    with engine.begin() as connection:
        connection.execute(insert(admin_log), call)
    return engine


@pytest.mark.parametrize("table", TABLES)
def test_what_is_in_the_books_cannot_be_changed_or_deleted(written: Engine, table: str) -> None:
    before = books(written)
    for change in CHANGES[written.dialect.name]:
        with (
            pytest.raises(IntegrityError, match=f"{table} is append-only: post a correcting entry instead"),
            written.begin() as connection,
        ):
            connection.exec_driver_sql(change.format(table=table))
        assert books(written) == before


@pytest.mark.parametrize(
    ("workspace_id", "head", "amount_pico"),
    [
        ("w", Head(4, TEN_USD), TEN_USD),  # a gap
        ("w", Head(3, TEN_USD), TEN_USD),  # a balance that does not follow
        ("w", Head(2, 2 * TEN_USD), TEN_USD),  # a number that is taken
        ("a", Head(2, TEN_USD), TEN_USD),  # a beginning in the middle
        ("a", Head(1, TEN_USD + 1), TEN_USD),  # a beginning out of nothing
        ("a", Head(0, TEN_USD), TEN_USD),  # a number below the first
        ("nobody", Head(1, TEN_USD), TEN_USD),  # nobody's entry
        ("a", Head(1, 0), 0),  # a movement of nothing
    ],
)
def test_an_entry_that_does_not_continue_the_books_is_refused_by_the_database_itself(
    written: Engine, workspace_id: str, head: Head, amount_pico: int
) -> None:
    terms = Terms(books(written)["ledger_entry"][0]["recorded_at"], 1, MAX_BALANCE_PICO["postgresql"])
    entry = terms.entry(workspace_id, head, amount_pico, contra="cash", reference="payment-2", actor="mallory")
    before = books(written)
    with pytest.raises(IntegrityError), written.begin() as connection:
        connection.execute(insert(ledger_entry), entry | {"leaf_index": 99})
    assert books(written) == before


@pytest.mark.parametrize(
    "columns",
    [
        {"contra": "cash"},  # neither a request nor a reference
        {"contra": "gift", "reference": "payment-2"},
        {"contra": "cash", "reference": "payment-1"},  # a reference that is taken
    ],
)
def test_an_entry_without_an_origin_of_its_own_is_refused_by_the_database_itself(
    written: Engine, columns: dict[str, str]
) -> None:
    entries = {entry["seq"]: entry for entry in books(written)["ledger_entry"]}
    terms = Terms(entries[1]["recorded_at"], 1, MAX_BALANCE_PICO["sqlite"])
    head = Head(2, entries[2]["balance_after_pico"]).moved(1)
    entry = terms.entry("w", head, 1, actor="mallory", **columns) | {"leaf_index": 99}
    with pytest.raises(IntegrityError), written.begin() as connection:
        connection.execute(insert(ledger_entry), entry)


def test_sqlite_is_opened_so_that_committed_means_on_the_disk(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/ledger.db")
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers")
        }
    engine.dispose()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "recursive_triggers": 1}


REFUND = {"contra": "refund", "reference": "ticket-1", "reason": "sorry", "actor": "mallory"}


@pytest.mark.parametrize(
    ("workspace_id", "reversed_seq", "amount_pico", "changes"),
    [
        ("w", 2, COST_PICO + 1, {}),  # more than the debit
        ("w", 2, -1, {}),  # not against it but with it
        ("w", 1, -TEN_USD - 1, {}),  # more than the payment
        ("w", None, 1, {}),  # of nothing
        ("w", 2, 1, {"reason": None}),
        ("a", 2, 1, {}),  # in another workspace
        ("w", 2, -COST_PICO, {"contra": "revenue", "reference": None, "reason": None, "request_id": "unknown"}),
    ],
)
def test_a_reversal_or_debit_that_does_not_fit_what_it_is_about_is_refused_by_the_database_itself(
    written: Engine, workspace_id: str, reversed_seq: int | None, amount_pico: int, changes: dict[str, str | None]
) -> None:
    before = books(written)
    entries = {entry["seq"]: entry for entry in before["ledger_entry"]}
    head = Head(2, entries[2]["balance_after_pico"]) if workspace_id == "w" else Head(0, 0)
    origin = REFUND | {"reverses": entries[reversed_seq]["entry_id"] if reversed_seq else None} | changes
    if origin.get("request_id"):
        origin |= {"request_id": new_id(), "reverses": None}
    terms = Terms(NOW, 1, MAX_BALANCE_PICO["sqlite"])
    entry = terms.entry(workspace_id, head.moved(amount_pico), amount_pico, **origin) | {"leaf_index": 99}
    with pytest.raises(IntegrityError), written.begin() as connection:
        connection.execute(insert(ledger_entry), entry)
    assert books(written) == before
