"""The commands that prove the books, as an auditor types them beside a database, with no service running."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import Engine

from services.billing import migrations
from services.billing.accounts import Accounts
from services.billing.database import connect
from services.billing.export import Selection, jsonl
from services.billing.keys import make_key
from services.billing.ledger import Credit, Ledger
from services.billing.publications import kept_outside
from services.billing.signer import Signer
from services.cli import output, proofs
from tests.unit.billing.events import GEMINI, usage
from tests.unit.billing.reports import bucket, lines, page

Run = Callable[..., tuple[int, str, str]]


def opentoken(*arguments: object, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    command = [sys.executable, "-m", "services.cli", *map(str, arguments)]
    done = subprocess.run(
        command, check=False, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def run(engine: Engine) -> Run:
    """Runs `opentoken` on the test's database."""
    url = engine.url.render_as_string(hide_password=False)
    return lambda *arguments: opentoken(*arguments, OPENTOKEN_DATABASE_URL=url)


def test_reconcile_prints_what_differs_and_says_so_by_its_exit_code(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    ledger.record([usage(upstream_request_id="one")])
    row = {"upstream_request_id": "one", "started_at": "2026-01-31T12:00:00Z", "model": GEMINI.upstream}
    report = tmp_path / "report.jsonl"
    report.write_text(lines(row | {"cost_usd": "0.001444"}))
    code, out, err = run("reconcile", report)
    assert (code, out) == (0, "")
    assert err == "1 lines on 1 days: 1 matched, 0 missing, 0 extra, 0 differs\n"
    report.write_text(lines(row | {"cost_usd": "0.002"}))
    code, out, _ = run("reconcile", report, "--json")
    assert code == 1
    line = json.loads(out)
    assert (line["class"], line["request_id"]) == ("differs", "one")
    assert (line["books"]["cost_usd"], line["provider"]["cost_usd"]) == ("0.001444", "0.002")


def test_what_cannot_be_checked_is_said_with_exit_code_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("hello")
    (tmp_path / "page").write_text(page(bucket("2026-01-31")))
    (tmp_path / "empty.db").touch()
    for arguments, said in (
        (["reconcile", tmp_path / "report"], "report: there is nothing in it"),
        (["reconcile", tmp_path / "none"], "No such file"),
        (["reconcile", tmp_path / "report", "--database", "sqlite:////nowhere.db"], "there is nothing in it"),
        (["reconcile", tmp_path / "page", "--provider", "antropic"], "no provider 'antropic': known are anthropic, "),
        (["verify", "--database", "foo"], "not a database URL: write postgresql+psycopg://"),
        (["replay", tmp_path / "report", "--into", "mysql://u:p@h/d"], "not a database URL: write postgresql+psycopg"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert said in err
        assert "Traceback" not in err


def test_verify_says_that_the_books_are_right_and_against_what_it_checked_them(
    run: Run, ledger: Ledger, engine: Engine, tmp_path: Path
) -> None:
    ledger.record([usage(), usage("a", outcome="upstream_failed")])
    code, out, err = run("verify", "--json")
    assert (code, out) == (0, "")
    assert err == "3 leaves checked against no checkpoint kept outside: see --checkpoints: 0 findings\n"
    key = make_key(tmp_path / "key")
    Signer(engine, 1, key, tmp_path / "checkpoints").sign_all()
    code, out, err = run("verify", "--json", "--checkpoints", tmp_path / "checkpoints", "--key", tmp_path / "key.pub")
    assert (code, out) == (0, "")
    assert "1 checkpoints kept outside" in err
    code, _, err = run("verify", "--checkpoints", tmp_path / "checkpoints")
    assert code == 2
    assert "give --key FILE" in err


def test_verify_against_a_place_that_holds_no_checkpoint_could_not_be_checked(
    run: Run, ledger: Ledger, engine: Engine, tmp_path: Path
) -> None:
    ledger.record([usage()])
    (tmp_path / "empty").mkdir()
    url = engine.url.render_as_string(hide_password=False)
    for place in (tmp_path / "empty", tmp_path / "typo"):
        for code, out, err in (
            run("verify", "--checkpoints", place),
            opentoken("verify", "--database", url, OPENTOKEN_CHECKPOINT_DIR=str(place)),
        ):
            assert (code, out) == (2, "")
            assert f"{place} holds no checkpoint: give --checkpoints" in err
    assert opentoken("verify", "--database", url, OPENTOKEN_DATA_DIR=str(tmp_path / "typo"))[0] == 0


def test_verify_names_the_row_what_was_expected_and_what_is_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    engine = connect(url)
    migrations.upgrade(engine)
    Accounts(engine).create_workspace("w", "w")
    Ledger(engine).record([event := usage()])
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER usage_record_no_update")
        connection.exec_driver_sql("UPDATE usage_record SET output_tokens = 1")
    engine.dispose()
    code, out, err = opentoken("verify", "--json", "--database", url)
    findings = {finding["check"]: finding for finding in map(json.loads, out.splitlines())}
    assert code == 1
    assert err.endswith(" 2 findings\n")
    assert findings["row"]["row"] == f"usage_record {event.request_id}, leaf 0 of shard 0"
    assert findings["cost"] == {
        "check": "cost",
        "row": f"usage_record {event.request_id}",
        "expected": "cost_pico 193000000",
        "found": event.cost_pico_usd,
    }


def test_replay_builds_the_books_anew_and_says_their_root(
    run: Run, ledger: Ledger, engine: Engine, tmp_path: Path
) -> None:
    ledger.record([usage(), usage("a")])
    lines = list(jsonl(engine, Selection()))
    export = tmp_path / "export.jsonl"
    export.write_bytes(b"".join(lines))
    code, out, err = run("replay", export, "--into", f"sqlite:///{tmp_path}/new.db", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["root"] == json.loads(lines[-1])["root"]
    code, _, err = opentoken("verify", "--database", f"sqlite:///{tmp_path}/new.db")
    assert (code, err[:16]) == (0, "4 leaves checked")
    code, _, err = run("replay", export, "--into", f"sqlite:///{tmp_path}/new.db")
    assert code == 2
    assert "give an empty database" in err
    export.write_bytes(b"".join(lines).replace(b"AbCdEfGh1234", b"AbCdEfGh1235"))
    code, _, err = run("replay", export, "--into", f"sqlite:///{tmp_path}/other.db")
    assert code == 1
    assert "but its lines make" in err
    assert "other.db now is not proven: delete it" in err
    export.write_bytes(b"")
    code, out, err = run("replay", export, "--into", f"sqlite:///{tmp_path}/third.db")
    assert (code, out) == (2, "")
    assert "the export is empty or has no end line: fetch it anew" in err


def test_a_statement_reads_from_the_opening_to_the_closing_balance(run: Run, ledger: Ledger) -> None:
    ledger.credit(Credit("w", 10**13, "payment-1", "admin"))
    ledger.record([usage()])
    month = datetime.now(UTC).strftime("%Y-%m")
    code, out, _ = run("statement", "w", month)
    assert code == 0
    heading, said, _, *table = out.splitlines()
    assert heading == f"Statement of workspace w for {month}, in UTC and USD"
    assert said.startswith(f"This month is not over: as of {month}-")
    assert run("statement", "w", "2026-01")[1].startswith(
        "Statement of workspace w for 2026-01, in UTC and USD\n\nwhat"
    )
    lines = [line.split() for line in table]
    assert lines[1] == ["opening", "balance", "-", "-", "-", "0"]
    assert lines[2] == [GEMINI.id, "AbCdEfGh1234", "1", "-0.001444", "-"]
    assert lines[3] == ["cash", "payment-1", "-", "-", "10", "-"]
    assert lines[4][-1] == "9.998556"
    assert json.loads(run("statement", "w", month, "--json")[1])["closing_balance_usd"] == "9.998556"
    for arguments, said in ((["nobody", month], "not found"), (["w", "2026-13"], "write it as 2026-01")):
        code, _, err = run("statement", *arguments)
        assert code == 2
        assert said in err


def test_a_checkpoint_exported_while_verify_begins_is_no_tail_that_is_missing(
    ledger: Ledger, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = Signer(engine, 1, make_key(tmp_path / "key"), tmp_path / "checkpoints")

    def exported_meanwhile(*arguments: Any) -> Any:
        ledger.record([usage()])
        signer.sign_all()
        return kept_outside(*arguments)

    monkeypatch.setattr(proofs, "kept_outside", exported_meanwhile)
    monkeypatch.setenv("OPENTOKEN_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    proofs.verify(tmp_path / "checkpoints", tmp_path / "key.pub")


def test_reconcile_shows_on_a_terminal_that_it_goes_on(
    engine: Engine, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, report = Console(force_terminal=True, file=StringIO()), tmp_path / "report.jsonl"
    row = {"upstream_request_id": "one", "started_at": "2026-01-31T12:00:00Z", "model": GEMINI.upstream}
    report.write_text(lines(row | {"cost_usd": "0.001444"}))
    ledger.record([usage(upstream_request_id="one")])
    monkeypatch.setattr(output, "Console", lambda **_: terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("OPENTOKEN_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    proofs.reconcile([report])
    assert "reconcile" in terminal.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above
