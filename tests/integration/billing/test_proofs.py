"""The commands that prove the books, as an auditor types them beside a database, with no service running."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from services.billing.ledger import Ledger
from tests.unit.billing.events import GEMINI, usage
from tests.unit.billing.reports import lines

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
    assert (code, len(out.splitlines())) == (0, 1)
    assert err == "1 lines on 1 days: 1 matched, 0 missing, 0 extra, 0 differs\n"
    report.write_text(lines(row | {"cost_usd": "0.002"}))
    code, out, _ = run("reconcile", report, "--json")
    assert code == 1
    line = json.loads(out)
    assert (line["class"], line["request_id"]) == ("differs", "one")
    assert (line["books"]["cost_usd"], line["provider"]["cost_usd"]) == ("0.001444", "0.002")


def test_what_cannot_be_checked_is_said_with_exit_code_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("hello")
    (tmp_path / "empty.db").touch()
    for arguments, said in (
        (["reconcile", tmp_path / "report"], "report: there is nothing in it"),
        (["reconcile", tmp_path / "none"], "No such file"),
        (["reconcile", tmp_path / "report", "--database", "sqlite:////nowhere.db"], "there is nothing in it"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert said in err
        assert "Traceback" not in err
