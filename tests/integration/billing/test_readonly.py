"""Who only reads the books changes no byte of them, and sees what a running service has just written."""

import hashlib
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from services.billing import migrations, readonly
from services.billing.accounts import Accounts
from services.billing.database import connect, reading
from services.billing.ledger import Ledger
from services.billing.readonly import connect_to_read
from services.billing.scan import sizes
from tests.integration.billing.test_proofs import opentoken
from tests.unit.billing.events import usage


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Books of two leaves, closed in order."""
    (tmp_path / "a dir").mkdir()
    file = tmp_path / "a dir" / "ledger #1.db"  # in a URI it is to be quoted
    engine = connect(f"sqlite:///{file}")
    migrations.upgrade(engine)
    Accounts(engine).create_workspace("w", "w")
    Ledger(engine).record([usage(upstream_request_id="one")])
    engine.dispose()
    return file


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def leaves(url: str) -> int:
    engine = connect_to_read(url)
    with reading(engine) as connection:
        found = sizes(connection)[0]
    engine.dispose()
    return found


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_no_command_that_only_reads_changes_a_byte_of_the_file(file: Path, tmp_path: Path, mode: str) -> None:
    raw = sqlite3.connect(file)
    raw.execute(f"PRAGMA journal_mode = {mode}")
    raw.close()
    report, before = tmp_path / "report.csv", digest(file)
    report.write_text("upstream_request_id,started_at,model,cost_usd\none,2026-01-31T12:00:00Z,gemini,0.001444\n")
    for arguments in (("verify",), ("statement", "w", "2026-01"), ("reconcile", report, "--provider", "google")):
        code, _, err = opentoken(*arguments, OPENTOKEN_DATABASE_URL=f"sqlite:///{file}")
        assert code == 0, err
        assert digest(file) == before, arguments


def test_who_reads_may_write_nothing(file: Path) -> None:
    engine = connect_to_read(f"sqlite:///{file}")
    with reading(engine) as connection, pytest.raises(OperationalError, match="readonly"):
        connection.execute(text("DELETE FROM workspace"))
    engine.dispose()


def test_what_a_running_service_has_written_is_seen(file: Path) -> None:
    service = connect(f"sqlite:///{file}")
    Ledger(service).record([usage()])
    assert file.with_name(f"{file.name}-wal").stat().st_size > 0, "it stands in the WAL alone"
    assert leaves(f"sqlite:///{file}") == 4
    service.dispose()


def test_a_medium_on_which_nothing_can_be_written_is_read_where_no_wal_is_left(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = sqlite3.connect

    def read_only_medium(name: str, **options: Any) -> sqlite3.Connection:
        if "immutable=1" not in name:  # what SQLite says there of a file whose header asks for a WAL
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return opened(name, **options)

    monkeypatch.setattr(readonly.sqlite3, "connect", read_only_medium)  # type: ignore[attr-defined]  # its driver
    assert leaves(f"sqlite:///{file}") == 2
    file.with_name(f"{file.name}-wal").touch()
    with pytest.raises(OperationalError):
        leaves(f"sqlite:///{file}")


def test_a_database_may_be_named_by_a_uri_and_what_is_said_of_it_is_right(file: Path) -> None:
    uri = f"file:{quote(quote(str(file)))}?uri=true"
    assert opentoken("verify", "--database", f"sqlite:///{uri}&mode=ro")[0] == 0
    code, _, err = opentoken("verify", "--database", f"sqlite:///{uri.replace('ledger', 'none')}")
    assert code == 2
    assert "there is no ledger at " in err
