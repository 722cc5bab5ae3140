"""A simulator that knows one service account, and workers for Google before it."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from services.simulator.app import build_app
from services.workers import upstream
from shared.http import listening
from tests.integration.workers.google import Google
from tests.unit.simulator.vertex import key_pair, tell


@pytest.fixture(autouse=True)
def retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "RETRY_PAUSE_S", 0.001)


@pytest.fixture
async def google(tmp_path: Path) -> AsyncIterator[Google]:
    async with listening(build_app(), "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        google = Google(f"http://127.0.0.1:{port}", session, tmp_path / "key.json")
        google.write_key_file(key_pair())
        await tell(google, key_pair())
        yield google
