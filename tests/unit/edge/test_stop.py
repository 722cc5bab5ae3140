"""An edge that is told to stop: what does not end within the grace is told so, and costs its client nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest

from services.edge.app import build_app
from services.simulator.app import build_app as build_simulator
from services.workers.host import build_app as build_worker
from shared.bus.local import LocalBus
from shared.http import listening
from shared.sse import Decoder
from tests.unit.edge.running import Bank, Edge, serving
from tests.unit.workers.running import CATALOG, DEADLINE_S, PROVIDERS, TOKEN, Books, Worker, chat, supplier

LONG = "A story [[tokens=200 chunks=100 chunk_delay_ms=200]]"
BOTH = pytest.mark.parametrize("name", ["anthropic", "google"])


class Stopping:
    """An edge before a real worker, which the test ends with hardly any grace."""

    def __init__(self, edge: Edge, worker: Worker, stack: contextlib.AsyncExitStack) -> None:
        self.edge, self.worker, self._stack = edge, worker, stack

    async def stop(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self._stack.aclose()


@contextlib.asynccontextmanager
async def started(name: str) -> AsyncIterator[Stopping]:
    bank, bus, timeout = Bank(), LocalBus(), aiohttp.ClientTimeout(total=DEADLINE_S)
    async with (
        Books().kept_by(bus) as books,
        serving(bank.answer) as billing_url,
        listening(build_simulator(), "127.0.0.1", 0) as simulator,
        aiohttp.ClientSession(timeout=timeout) as session,
        contextlib.AsyncExitStack() as stack,
    ):
        suppliers = [supplier(name, 1, "simulated", f"http://127.0.0.1:{simulator}")]
        working = build_worker(PROVIDERS[name], suppliers, CATALOG, TOKEN, lambda: bus)
        worker_url = f"http://127.0.0.1:{await stack.enter_async_context(listening(working, '127.0.0.1', 0))}"
        app = build_app(CATALOG, TOKEN, dict.fromkeys(CATALOG.providers, worker_url), billing_url, lambda: bus)
        port = await stack.enter_async_context(listening(app, "127.0.0.1", 0, grace_s=0.1))
        edge = Edge(f"http://127.0.0.1:{port}", session, bank, books, app)
        yield Stopping(edge, Worker(worker_url, session, books, working), stack)


@BOTH
async def test_a_stream_that_outlasts_the_edges_grace_is_told_so_inside_it_and_costs_nothing(name: str) -> None:
    async with started(name) as running:
        async with running.edge.post(chat(name, LONG, stream=True)) as answer:
            seen = await answer.content.readany()
            await running.stop()
            seen += await answer.read()
        record = await running.edge.books.only()
    *_, error, done = (event.data for event in Decoder().feed(seen))
    assert (orjson.loads(error)["error"]["type"], done) == ("api_error", "[DONE]")
    assert (record.outcome, record.cost) == ("upstream_interrupted", 0)


@BOTH
async def test_an_answer_that_has_not_begun_within_the_edges_grace_is_a_500_and_free(name: str) -> None:
    async with started(name) as running:
        asking = asyncio.create_task(running.edge.ask(chat(name, "Hi [[mute]]")))
        await running.worker.calling()
        await running.stop()
        answer, record = await asking, await running.edge.books.only()
    assert (answer.status, answer.json["error"]["type"]) == (500, "api_error")
    assert (record.outcome, record.cost) == ("upstream_failed", 0)
