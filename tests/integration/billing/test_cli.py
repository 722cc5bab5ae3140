"""The `opentoken` command as an operator types it, against a running billing service."""

import asyncio
import json
import os
import shlex
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from typer.testing import CliRunner

from services.billing import migrations
from services.billing.database import connect
from services.billing.ledger import Ledger
from services.cli.__main__ import app
from services.cli.billing import Billing
from services.cli.output import Failed
from services.cli.settings import Settings
from tests.integration.billing.service import ADMIN, running
from tests.unit.billing.events import usage


@dataclass(frozen=True, slots=True)
class Terminal:
    """Runs commands: in a process of their own, or, where nothing is to fail, faster, in this one."""

    environment: dict[str, str]

    async def run(self, line: str, **environment: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", *shlex.split(line),
            env=self.environment | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def ok(self, line: str, **environment: str) -> str:
        ran = await asyncio.to_thread(CliRunner().invoke, app, shlex.split(line), env=self.environment | environment)
        if isinstance(ran.exception, Failed):
            raise ran.exception
        assert (ran.exit_code, ran.stderr) == (0, "")
        return ran.stdout

    async def row(self, line: str, **environment: str) -> Any:
        """The one row that a command prints."""
        return json.loads(await self.ok(f"{line} --json", **environment))


@pytest_asyncio.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    """A terminal beside a running service that left its token and its address in the data dir."""
    engine = connect(f"sqlite:///{tmp_path}/ledger.db")
    migrations.upgrade(engine)
    engine.dispose()
    # What the service logs would else stand among what a command in the same process prints.
    with capture_logs():
        async with running(f"sqlite:///{tmp_path}/ledger.db") as service:
            left = {"admin_token": ADMIN, "billing_url": str(service.client.make_url(""))}
            (tmp_path / "credentials.json").write_text(json.dumps(left))
            yield Terminal(os.environ | {"OPENTOKEN_DATA_DIR": str(tmp_path)})


async def test_an_operator_makes_a_workspace_gives_it_credit_and_a_key_and_revokes_the_key(terminal: Terminal) -> None:
    assert "acme" in await terminal.ok("admin workspace create Acme --id acme --strict")
    header, row = (await terminal.ok("admin workspace list")).splitlines()
    assert header.split() == ["id", "name", "strict", "created_at"]
    assert row.split()[:3] == ["acme", "Acme", "true"]

    posted = json.loads(await terminal.ok("admin credit add acme 12.50 --reference payment-1 --json"))
    assert (posted["amount_usd"], posted["balance_after_usd"]) == ("12.5", "12.5")

    made = json.loads(await terminal.ok("admin key create acme app --spend-limit-usd 5 --limit-reset daily --json"))
    assert made["secret"].startswith("sk-optk-")
    listed = await terminal.ok("admin key list acme")
    assert made["key_id"] in listed
    assert made["secret"] not in listed
    revoked = json.loads(await terminal.ok(f"admin key revoke {made['key_id']} --json"))
    assert revoked["revoked_at"] is not None


async def test_an_operator_changes_limits_one_by_one_and_takes_them_away(terminal: Terminal) -> None:
    await terminal.ok("admin workspace create Acme --id acme")
    changed = await terminal.row("admin workspace set acme --name 'Acme Ltd' --strict")
    assert (changed["name"], changed["strict"]) == ("Acme Ltd", True)
    assert (await terminal.row("admin workspace set acme --no-strict"))["name"] == "Acme Ltd"
    assert (await terminal.row("admin workspace show acme"))["balance_usd"] == "0"

    key = (await terminal.row("admin key create acme app --spend-limit-usd 5 --limit-reset daily"))["key_id"]
    limited = await terminal.row(f"admin limit set {key} --requests-per-minute 60 --tokens-per-minute 1000")
    limits = ("spend_limit_usd", "limit_reset", "requests_per_minute", "tokens_per_minute")
    assert [limited[name] for name in limits] == ["5", "daily", 60, 1000]
    lifetime = await terminal.row(f"admin limit set {key} --limit-reset never --spend-limit-usd 7.5")
    assert [lifetime[name] for name in limits] == ["7.5", None, 60, 1000]
    fewer = await terminal.row(f"admin limit clear {key} --requests")
    assert [fewer[name] for name in limits] == ["7.5", None, None, 1000]
    assert [(await terminal.row(f"admin limit clear {key}"))[name] for name in limits] == [None] * 4

    expiring = await terminal.row(f"admin key set {key} --label new --expires-at 2100-01-31T00:00:00Z")
    assert (expiring["label"], expiring["expires_at"]) == ("new", "2100-01-31T00:00:00.000000Z")
    assert (await terminal.row(f"admin key set {key} --expires-at never"))["expires_at"] is None
    shown = await terminal.ok(f"admin key show {key}")
    assert ["label", "new"] in [line.split() for line in shown.splitlines()]


async def test_an_operator_corrects_a_balance_and_the_books_and_the_log_name_who_it_was(terminal: Terminal) -> None:
    await terminal.ok("admin workspace create Acme --id acme")
    paid = await terminal.row("admin credit add acme 10 --reference payment-1")
    ann = {"OPENTOKEN_ACTOR": "Zoë"}
    back = await terminal.row(
        f"admin credit refund acme {paid['entry_id']} --amount-usd 4 --reference r-1 --reason 'sent twice'", **ann
    )
    assert (back["amount_usd"], back["reverses"], back["actor"]) == ("-4", paid["entry_id"], "admin:Zoë")
    fee = await terminal.row("admin credit adjust acme -0.50 --reference memo-1 --reason 'bank fee'")
    assert fee["balance_after_usd"] == "5.5"
    header, *listed = (await terminal.ok("admin credit list acme")).splitlines()
    assert listed[1].split()[header.split().index("reverses")] == paid["entry_id"]
    assert [line.split()[2] for line in listed] == ["10", "-4", "-0.5"]
    _, *log = (await terminal.ok("admin log --workspace acme")).splitlines()
    assert [line.split()[1] for line in log] == ["admin", "admin:Zoë", "admin"]


async def test_an_operator_sees_what_was_set_aside_and_in_what_a_second_record_differs(
    terminal: Terminal, tmp_path: Path
) -> None:
    await terminal.ok("admin workspace create Acme --id acme")
    engine, first = connect(f"sqlite:///{tmp_path}/ledger.db"), usage("acme")
    second = first.model_copy(update={"duration_ms": 7})
    await asyncio.to_thread(Ledger(engine).record, [first, second, usage("nobody")])
    engine.dispose()
    kept = await terminal.row("admin quarantine list")
    assert kept["reason"] == "unknown workspace 'nobody'"
    assert '"workspace_id":"nobody"' in await terminal.ok(f"admin quarantine show {kept['digest']}")
    conflict = await terminal.row("admin conflict list --from 2026-01-01T00:00:00Z")
    assert conflict["request_id"] == first.request_id
    shown = await terminal.ok(f"admin conflict show {conflict['digest']}")
    assert shown.splitlines()[-1].split() == ["duration_ms", "1200", "7"]


async def test_what_fails_is_said_on_standard_error_with_exit_code_1(terminal: Terminal) -> None:
    for line, environment, said in (
        ("admin key list nobody", {}, 'opentoken: workspace "nobody" not found (HTTP 404)\n'),
        ("admin workspace list", {"OPENTOKEN_BILLING_URL": "http://127.0.0.1:1"}, "cannot be reached: [Errno 111]"),
    ):
        code, out, err = await terminal.run(line, **environment)
        assert (code, out) == (1, "")
        assert said in err
        assert "Traceback" not in err


async def test_what_fails_says_what_to_change(terminal: Terminal) -> None:
    for line, environment, said in (
        ("admin limit set nobody", {}, "nothing to change: give one or more of"),
        ("admin credit add nobody 1.5.0 --reference x", {}, "amount_usd: write it as a decimal string"),
        ("admin workspace list", {"OPENTOKEN_ADMIN_TOKEN": "wrong"}, r"invalid api key \(HTTP 401\)"),
        ("admin workspace list", {"OPENTOKEN_DATA_DIR": "/nowhere"}, "no admin token: set OPENTOKEN_ADMIN"),
        ("admin workspace list", {"OPENTOKEN_ACTOR": "a\tb"}, "x-opentoken-actor: use 1 to 64 printable"),
        ("admin workspace list", {"OPENTOKEN_ACTOR": "bo\udcff"}, "OPENTOKEN_ACTOR is no UTF-8"),
        ("admin workspace list", {"OPENTOKEN_BILLING_URL": "file:///etc"}, "must start with http:// or https://"),
    ):
        with pytest.raises(Failed, match=said):
            await terminal.ok(line, **environment)


async def test_a_list_longer_than_a_page_is_shown_whole(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        await terminal.ok(f"admin workspace create {name}")
    monkeypatch.setattr("services.cli.billing.PAGE", 1)
    monkeypatch.setenv("OPENTOKEN_DATA_DIR", terminal.environment["OPENTOKEN_DATA_DIR"])
    rows = await asyncio.to_thread(_list)
    assert {row["name"] for row in rows} == {"one", "two", "three"}


def _list() -> list[dict[str, Any]]:
    return Billing(Settings()).list("admin", "workspaces")
