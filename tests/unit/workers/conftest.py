"""Workers in front of the simulator."""

import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from services.simulator.app import build_app
from services.workers import upstream
from shared.http import listening
from tests.unit.workers.running import PROVIDERS, Running, Simulator, Worker, supplier, worker


@pytest.fixture(autouse=True)
def retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "RETRY_PAUSE_S", 0.001)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with listening(build_app(), "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        yield Simulator(f"http://127.0.0.1:{port}", session)


@pytest.fixture
def running(simulator: Simulator) -> Running:
    """`running(name, *keys)` is a worker with one supplier for each key, all of them the simulator."""

    def start(name: str, *keys: str, url: str = simulator.url) -> contextlib.AbstractAsyncContextManager[Worker]:
        return worker(PROVIDERS[name], [supplier(name, n, key, url) for n, key in enumerate(keys or ("key",), 1)])

    return start
