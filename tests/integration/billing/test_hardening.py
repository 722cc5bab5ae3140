"""Attacks on a hardened PostgreSQL, by role: each is refused with the SQLSTATE named, and nothing has changed."""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from structlog.testing import capture_logs

from services.billing import migrations
from services.billing.accounts import Accounts, NewKey
from services.billing.admin_bodies import KeyChanges, KeyLimits
from services.billing.database import connect, is_locked, reading
from services.billing.keys import make_key
from services.billing.ledger import Credit, Ledger
from services.billing.migrations.hardening import harden
from services.billing.partitions import MONTHS_AHEAD, make_ahead
from services.billing.signer import Signer
from tests import servers
from tests.integration.billing.books import TEN_USD, balances, books
from tests.unit.billing.events import COST_PICO, usage

pytestmark = pytest.mark.skipif(
    "OPENTOKEN_TEST_DATABASE_URL" in os.environ, reason="a server that was given may not give us its superuser"
)

DENIED, APPEND_ONLY, GUARD, CHECK, UNIQUE = "42501", "23001", "23000", "23514", "23505"
BOOKS = ("usage_record", "ledger_entry", "checkpoint", "signed_checkpoint", "admin_log")
PARTITION = "usage_record_default"


def copy_of(table: str, where: str = "true", **changes: str) -> str:
    """Inserts a copy of a table's first row with these columns changed."""
    columns = ", ".join(f"'{name}', {value}" for name, value in changes.items())
    return (
        f"INSERT INTO {table} SELECT made.* FROM {table} AS old,"
        f" LATERAL jsonb_populate_record(old, jsonb_build_object({columns})) AS made WHERE {where} LIMIT 1"
    )


def entry(**changes: str) -> str:
    """Inserts a copy of the workspace's last entry, a debit, with these columns changed."""
    fresh = {"entry_id": "gen_random_uuid()", "leaf_index": "old.leaf_index + 1000"}
    return copy_of("ledger_entry", "old.workspace_id = 'w' AND old.seq = 2", **(fresh | changes))


CASH = {"contra": "'cash'", "request_id": "NULL::uuid", "reference": "'r'", "amount_pico": "1"}
NEXT = {"seq": "old.seq + 1", "balance_after_pico": "old.balance_after_pico + 1"}
REFUND = CASH | {"contra": "'refund'", "reason": "'sorry'"}

DDL = {
    "DROP TABLE ledger_entry CASCADE": DENIED,
    "DROP TABLE usage_record_default CASCADE": DENIED,
    "DROP TRIGGER append_only ON ledger_entry": DENIED,
    "DROP TRIGGER ledger_entry_guard ON ledger_entry": DENIED,
    "DROP FUNCTION refuse_change() CASCADE": DENIED,
    "DROP INDEX entry_of_reference": DENIED,
    "DROP EVENT TRIGGER ledger_drop": DENIED,
    "ALTER EVENT TRIGGER ledger_ddl DISABLE": DENIED,
    "ALTER TABLE ledger_entry DISABLE TRIGGER ALL": DENIED,
    "ALTER TABLE ledger_entry DISABLE TRIGGER append_only": DENIED,
    "ALTER TABLE ledger_entry ENABLE REPLICA TRIGGER append_only": DENIED,
    "ALTER TABLE ledger_entry ADD COLUMN note text": DENIED,
    "ALTER TABLE ledger_entry DROP COLUMN actor": DENIED,
    "ALTER TABLE ledger_entry RENAME TO gone": DENIED,
    "ALTER TABLE ledger_entry ALTER COLUMN amount_pico TYPE numeric": DENIED,
    "ALTER TABLE ledger_entry DROP CONSTRAINT ledger_entry_pkey CASCADE": DENIED,
    "ALTER TABLE usage_record DETACH PARTITION usage_record_default": DENIED,
    "ALTER TABLE ledger_entry ENABLE ROW LEVEL SECURITY": DENIED,
    "CREATE RULE gone AS ON INSERT TO ledger_entry DO INSTEAD NOTHING": DENIED,
    "CREATE TRIGGER mine BEFORE INSERT ON ledger_entry FOR EACH ROW EXECUTE FUNCTION refuse_change()": DENIED,
    "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'": DENIED,
    "CREATE TABLE mine (id integer)": DENIED,
    "SET LOCAL session_replication_role = replica": DENIED,
}
PLATFORM = {
    "SET ROLE ledger_owner": DENIED,
    "CREATE ROLE mallory SUPERUSER": DENIED,
    "ALTER SYSTEM SET fsync = off": "25001",  # not in a transaction; outside of one it is denied
    "COPY ledger_entry TO PROGRAM 'cat'": DENIED,
    "SELECT pg_read_file('/etc/passwd')": DENIED,
    "LOCK TABLE ledger_entry IN ACCESS EXCLUSIVE MODE": DENIED,
}
CHANGES = {
    change.format(table): DENIED
    for table in BOOKS
    for change in ("UPDATE {} SET recorded_at = now()", "DELETE FROM {}", "TRUNCATE {} CASCADE")
}
WRITER = {
    **CHANGES,
    **DDL,
    **PLATFORM,
    f"DELETE FROM {PARTITION}": DENIED,
    copy_of("usage_record", request_id="gen_random_uuid()").replace("INTO usage_record", f"INTO {PARTITION}"): DENIED,
    "UPDATE workspace SET id = 'mine'": DENIED,
    "DELETE FROM workspace": DENIED,
    "UPDATE api_key SET workspace_id = 'a'": DENIED,
    "UPDATE api_key SET digest = repeat('0', 64)": DENIED,
    "DELETE FROM api_key": DENIED,
    "DELETE FROM quarantine": DENIED,
    "UPDATE conflict SET body = ''": DENIED,
    "INSERT INTO ledger_entry SELECT * FROM ledger_entry ON CONFLICT (entry_id) DO UPDATE SET amount_pico = 1": DENIED,
    "MERGE INTO ledger_entry AS t USING ledger_entry AS s ON t.entry_id = s.entry_id WHEN MATCHED THEN DELETE": DENIED,
    "SELECT * FROM ledger_entry FOR UPDATE": DENIED,
    entry(**CASH, seq="old.seq + 2", balance_after_pico="old.balance_after_pico + 1"): GUARD,
    entry(**CASH, seq="old.seq + 1", balance_after_pico="old.balance_after_pico + 2"): GUARD,
    entry(**CASH, seq="old.seq", balance_after_pico="old.balance_after_pico + 1"): UNIQUE,
    entry(**CASH, **NEXT, workspace_id="'a'"): GUARD,
    entry(**(CASH | {"reference": "'payment-1'"}), **NEXT): UNIQUE,
    entry(**(CASH | {"reference": "NULL::text"}), **NEXT): CHECK,
    entry(**(CASH | {"contra": "'gift'"}), **NEXT): CHECK,
    entry(**(CASH | {"amount_pico": "0"}), seq="old.seq + 1"): CHECK,
    entry(**REFUND, **NEXT): CHECK,  # of nothing
    entry(**(REFUND | {"reason": "NULL::text"}), **NEXT, reverses="old.entry_id"): CHECK,
    entry(**(REFUND | {"amount_pico": f"{COST_PICO + 1}"}), seq="old.seq + 1", reverses="old.entry_id",
          balance_after_pico=f"old.balance_after_pico + {COST_PICO + 1}"): GUARD,
    entry(**(REFUND | {"amount_pico": "-1"}), seq="old.seq + 1", reverses="old.entry_id",
          balance_after_pico="old.balance_after_pico - 1"): GUARD,
    entry(request_id="gen_random_uuid()", seq="old.seq + 1",
          balance_after_pico=f"old.balance_after_pico - {COST_PICO}"): GUARD,  # a debit of no request
    entry(seq="old.seq + 1", balance_after_pico=f"old.balance_after_pico - {COST_PICO}"): UNIQUE,  # debited twice
    copy_of("usage_record", input_tokens="-1", request_id="gen_random_uuid()"): CHECK,
    copy_of("usage_record", input_tokens="1"): UNIQUE,
    copy_of("checkpoint", root="'\\x00'", tree_size="999"): CHECK,
    copy_of("checkpoint", tree_size="old.tree_size"): UNIQUE,
    copy_of("signed_checkpoint", tree_size="999"): "23503",
    "SELECT make_partitions(1000)": "22023",
}  # fmt: skip
AUDITOR = {
    **CHANGES,
    **DDL,
    **PLATFORM,
    **{f"INSERT INTO {table} SELECT * FROM {table}": DENIED for table in (*BOOKS, "workspace", "api_key")},
    "SET ROLE billing_writer": DENIED,
    "SELECT make_partitions(12)": DENIED,
    "COPY ledger_entry FROM PROGRAM 'true'": DENIED,
    "UPDATE api_key SET revoked_at = now()": DENIED,
    "SELECT answer FROM idempotency_key": DENIED,
}
OWNER = {
    **dict.fromkeys(CHANGES, APPEND_ONLY),
    **DDL,
    f"DELETE FROM {PARTITION}": APPEND_ONLY,
    f"TRUNCATE {PARTITION} CASCADE": APPEND_ONLY,
    "UPDATE ledger_entry SET amount_pico = 1 WHERE false": APPEND_ONLY,
    entry(**CASH, **NEXT): DENIED,
    copy_of("usage_record", request_id="gen_random_uuid()"): DENIED,
    copy_of("checkpoint", tree_size="999"): DENIED,
    "GRANT ALL ON ledger_entry TO PUBLIC": DENIED,
    "CREATE ROLE mallory": DENIED,
}
ATTACKS = {"billing_writer": WRITER, "ledger_auditor": AUDITOR, "ledger_owner": OWNER}


@pytest.fixture(scope="module")
def hardened(postgres_server: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Books of every kind in a hardened database; the attacks leave it as it is, so they share it."""
    with servers.database(postgres_server) as url:  # type: ignore[arg-type]  # the fixture's own type
        engine = connect(url)
        migrations.upgrade(engine)
        for name in "aw":
            Accounts(engine).create_workspace(name, name)
        Accounts(engine).create_key(NewKey("w", "app"))
        Ledger(engine).credit(Credit("w", TEN_USD, "payment-1", "admin"))
        Ledger(engine).record([usage()])
        file: Path = tmp_path_factory.mktemp("keys") / "signing.key"
        Signer(engine, 1, make_key(file), None).sign_all()
        harden(engine)
        yield engine
        engine.dispose()


@pytest.mark.parametrize(("role", "attack"), [(role, attack) for role in ATTACKS for attack in ATTACKS[role]])
def test_an_attack_on_the_books_is_refused_by_the_database(hardened: Engine, role: str, attack: str) -> None:
    before = books(hardened)
    with hardened.connect() as connection:
        connection.exec_driver_sql(f"SET LOCAL SESSION AUTHORIZATION {role}")
        with pytest.raises(DBAPIError) as caught:
            connection.execution_options(no_parameters=True).exec_driver_sql(attack)
    assert caught.value.orig.sqlstate == ATTACKS[role][attack], caught.value.orig  # type: ignore[union-attr]
    assert books(hardened) == before


def test_each_role_is_attacked_in_at_least_thirty_ways() -> None:
    assert min(len(attacks) for attacks in ATTACKS.values()) >= 30


@pytest.fixture
def writer(postgres_engine: Engine) -> Iterator[Engine]:
    """A hardened, empty database as the service's login sees it."""
    for name in "aw":
        Accounts(postgres_engine).create_workspace(name, name)
    harden(postgres_engine)
    harden(postgres_engine)  # once more changes nothing
    url = postgres_engine.url.update_query_dict({"options": "-c role=billing_writer"})
    engine = connect(url.render_as_string(hide_password=False))
    yield engine
    engine.dispose()


def test_the_service_does_all_its_work_as_the_writer_of_a_hardened_database(writer: Engine, tmp_path: Path) -> None:
    migrations.check(writer)
    ledger, accounts = Ledger(writer), Accounts(writer)
    ledger.check_shards()
    accounts.create_workspace("new", "new")
    key, _ = accounts.create_key(NewKey("new", "app"))
    assert accounts.change_workspace("new", {"name": "old", "strict": True})["strict"]
    every_limit = KeyChanges(**dict.fromkeys(KeyLimits.model_fields), label="new")
    assert accounts.change_key(key["id"], every_limit.columns())["label"] == "new"
    assert accounts.revoke(key["id"])["revoked_at"]
    ledger.credit(Credit("w", TEN_USD, "payment-1", "admin"))
    first = usage()
    assert ledger.record([first, usage("a"), usage("nobody")]) == {"recorded": 2, "quarantined": 1}
    assert ledger.record([usage(request_id=first.request_id, duration_ms=1)]) == {"conflict": 1}
    assert balances(writer, "w") == {"w": TEN_USD - COST_PICO}
    Signer(writer, 1, make_key(tmp_path / "signing.key"), tmp_path).sign_all()
    assert make_ahead(writer) == MONTHS_AHEAD


def test_the_owner_of_a_hardened_database_still_migrates_it(postgres_engine: Engine, writer: Engine) -> None:
    assert migrations.upgrade(postgres_engine)[0] == "0001"
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL ROLE ledger_owner")
        connection.exec_driver_sql("SET LOCAL opentoken.migration = 'on'")
        connection.exec_driver_sql("ALTER TABLE quarantine ADD COLUMN seen boolean")


def test_temporary_tables_are_free_for_all(hardened: Engine) -> None:
    with hardened.connect() as connection:
        connection.exec_driver_sql("SET LOCAL SESSION AUTHORIZATION ledger_auditor")
        connection.exec_driver_sql("CREATE TEMPORARY TABLE mine (id integer)")
        connection.exec_driver_sql("DROP TABLE mine")


def month(connection: Connection, ahead: int) -> str:
    first = f"now() AT TIME ZONE 'UTC' + interval '{ahead} month'"
    return str(connection.scalar(text(f"SELECT to_char({first}, '\"usage_record_\"YYYY_MM')")))


def drop_month(connection: Connection, ahead: int) -> None:
    name = month(connection, ahead)
    connection.execute(text(f"ALTER TABLE usage_record DETACH PARTITION {name}"))
    connection.execute(text(f"DROP TABLE {name}"))


def test_months_are_made_ahead_and_hold_the_records_whose_ids_are_of_them(postgres_engine: Engine) -> None:
    Accounts(postgres_engine).create_workspace("w", "w")
    Ledger(postgres_engine).record([usage(), usage(request_id="00000000-0000-4000-8000-000000000000")])
    with postgres_engine.connect() as connection:
        found = "SELECT count(*) FROM {}"
        assert connection.scalar(text(found.format(month(connection, 0)))) == 1
        assert connection.scalar(text(found.format(PARTITION))) == 1  # no UUIDv7
    with postgres_engine.begin() as connection:
        drop_month(connection, 1)
    assert make_ahead(postgres_engine) == MONTHS_AHEAD


def test_while_the_next_month_cannot_be_made_there_is_an_alert(
    postgres_engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with postgres_engine.begin() as connection:
        connection.execute(text("DROP FUNCTION make_partitions"))
        for ahead in (1, 2, 3):
            drop_month(connection, ahead)
    with pytest.raises(DBAPIError):
        make_ahead(postgres_engine)
    assert "next_partition_missing" in capsys.readouterr().out


@contextlib.contextmanager
def audited(engine: Engine) -> Iterator[None]:
    """A long read of the books, such as `verify` or a dump."""
    with reading(engine) as connection:
        connection.execute(text("SELECT count(*) FROM usage_record, ledger_entry"))
        yield


def test_a_long_read_holds_up_neither_hardening_nor_the_books(postgres_engine: Engine, writer: Engine) -> None:
    with audited(postgres_engine):
        harden(postgres_engine)
        assert Ledger(writer).record([usage()]) == {"recorded": 1}


def test_a_month_beside_a_long_read_is_given_up_soon_and_made_later(postgres_engine: Engine, writer: Engine) -> None:
    more = text(f"SELECT make_partitions({MONTHS_AHEAD + 1})")
    with audited(postgres_engine), writer.connect() as connection, pytest.raises(OperationalError) as caught:
        connection.execute(more)
    assert is_locked(caught.value)
    with writer.begin() as connection:
        assert connection.scalar(more) == 1


def test_a_request_from_a_clock_that_is_ahead_stops_no_other_month(writer: Engine) -> None:
    later = datetime.now(UTC) + timedelta(days=31 * (MONTHS_AHEAD + 1))
    digits = f"{int(later.timestamp() * 1000):012x}"
    ahead = usage(request_id=f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000")
    assert Ledger(writer).record([ahead]) == {"recorded": 1}
    with writer.begin() as connection:
        made = connection.scalar(text(f"SELECT make_partitions({MONTHS_AHEAD + 4})"))
    assert made == 3


def test_a_change_of_the_schema_waits_for_a_writer_and_goes_through(postgres_engine: Engine) -> None:
    with ThreadPoolExecutor() as threads, capture_logs() as logs:
        with postgres_engine.begin() as connection:
            connection.execute(text("LOCK workspace IN ROW EXCLUSIVE MODE"))
            hardening = threads.submit(harden, postgres_engine)
            while not logs:
                assert not wait([hardening], timeout=0.05).done
        hardening.result()
    assert logs[0]["event"] == "schema_change_waits"
