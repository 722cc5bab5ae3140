"""The `opentoken` command as an operator types it, against a running billing service."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.billing import migrations
from services.billing.database import connect
from services.cli.billing import Billing
from services.cli.settings import Settings
from tests.integration.billing.service import ADMIN, running


@dataclass(frozen=True, slots=True)
class Terminal:
    """Runs commands; gives exit code, standard output, standard error."""

    environment: dict[str, str]

    async def run(self, line: str, **environment: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", *line.split(),
            env=self.environment | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def ok(self, line: str) -> str:
        code, out, err = await self.run(line)
        assert (code, err) == (0, "")
        return out


@pytest_asyncio.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    """A terminal beside a running service that left its token in the data dir."""
    engine = connect(f"sqlite:///{tmp_path}/ledger.db")
    migrations.upgrade(engine)
    engine.dispose()
    (tmp_path / "credentials.json").write_text(json.dumps({"admin_token": ADMIN}))
    async with running(f"sqlite:///{tmp_path}/ledger.db") as service:
        ours = {"OPENTOKEN_DATA_DIR": str(tmp_path), "OPENTOKEN_BILLING_URL": str(service.client.make_url(""))}
        yield Terminal(os.environ | ours)


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


async def test_what_fails_is_said_on_standard_error_with_exit_code_1(terminal: Terminal) -> None:
    for line, environment, said in (
        ("admin key list nobody", {}, 'opentoken: workspace "nobody" not found (HTTP 404)\n'),
        ("admin workspace list", {"OPENTOKEN_ADMIN_TOKEN": "wrong"}, "opentoken: invalid api key (HTTP 401)\n"),
        ("admin workspace list", {"OPENTOKEN_DATA_DIR": "/nowhere"}, "opentoken: no admin token: set OPENTOKEN_ADMIN"),
        ("admin workspace list", {"OPENTOKEN_BILLING_URL": "http://127.0.0.1:1"}, "cannot be reached: [Errno 111]"),
        ("admin workspace list", {"OPENTOKEN_BILLING_URL": "file:///etc"}, "must start with http:// or https://"),
    ):
        code, out, err = await terminal.run(line, **environment)
        assert (code, out) == (1, "")
        assert said in err
        assert "Traceback" not in err


async def test_a_list_longer_than_a_page_is_shown_whole(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        await terminal.ok(f"admin workspace create {name}")
    monkeypatch.setattr("services.cli.billing.PAGE", 1)
    settings = {"OPENTOKEN_DATA_DIR", "OPENTOKEN_BILLING_URL"}
    for name in settings:
        monkeypatch.setenv(name, terminal.environment[name])
    rows = await asyncio.to_thread(_list)
    assert {row["name"] for row in rows} == {"one", "two", "three"}


def _list() -> list[dict[str, Any]]:
    return Billing(Settings()).list("admin", "workspaces")
