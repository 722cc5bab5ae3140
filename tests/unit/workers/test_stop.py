"""A worker that is told to stop: what ends within the grace is billed as ever, what does not is told and waived."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from services.workers.host import build_app
from shared.bus.local import LocalBus
from shared.drain import DRAINING
from shared.http import listening
from shared.sse import Decoder
from tests.unit.workers.running import (
    CATALOG,
    DEADLINE_S,
    PROVIDERS,
    TOKEN,
    Books,
    Simulator,
    Worker,
    chat,
    never_ends,
    provider_that,
    slow,
    supplier,
)

LONG = "A story [[tokens=200 chunks=100 chunk_delay_ms=200]]"
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: worker\r\nContent-Length: %d\r\nAuthorization: Bearer "
    + TOKEN.encode()
    + b"\r\nx-request-id: 0198c0de-0000-7000-8000-000000000001\r\nx-opentoken-workspace: w\r\nx-opentoken-key: k\r\n"
    b"x-opentoken-deadline-ms: 1500\r\n\r\n"
)
BOTH = pytest.mark.parametrize("name", ["anthropic", "google"])


class Stopping:
    """A worker that the test ends, with the grace of its choice."""

    def __init__(self, worker: Worker, stack: contextlib.AsyncExitStack) -> None:
        self.worker, self._stack = worker, stack

    async def stop(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self._stack.aclose()


@contextlib.asynccontextmanager
async def started(name: str, url: str, grace_s: float) -> AsyncIterator[Stopping]:
    bus, timeout = LocalBus(), aiohttp.ClientTimeout(total=DEADLINE_S)
    app = build_app(PROVIDERS[name], [supplier(name, 1, "k", url)], CATALOG, TOKEN, lambda: bus)
    async with (
        Books().kept_by(bus) as books,
        aiohttp.ClientSession(timeout=timeout) as session,
        contextlib.AsyncExitStack() as stack,
    ):
        port = await stack.enter_async_context(listening(app, "127.0.0.1", 0, grace_s=grace_s))
        yield Stopping(Worker(f"http://127.0.0.1:{port}", session, books, app), stack)


@BOTH
async def test_a_stream_that_outlasts_the_grace_is_told_so_inside_it_and_costs_nothing(
    simulator: Simulator, name: str
) -> None:
    async with started(name, simulator.url, grace_s=0.1) as running:
        async with running.worker.post(chat(name, LONG, stream=True)) as answer:
            seen = await answer.content.readany()
            await running.stop()
            seen += await answer.read()
        record = await running.worker.books.only()
    *_, error, done = (event.data for event in Decoder().feed(seen))
    told = json.loads(error)["error"]
    assert (told["type"], told["code"], done) == ("api_error", None, "[DONE]")
    assert seen.endswith(b"data: [DONE]\n\n: settled 0 0\n\n")
    assert (record.outcome, record.cost) == ("upstream_interrupted", 0)


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_that_has_not_begun_within_the_grace_is_a_500_and_free(
    simulator: Simulator, name: str, stream: bool
) -> None:
    async with started(name, simulator.url, grace_s=0.1) as running:
        asking = asyncio.create_task(running.worker.ask(chat(name, "Hi [[mute]]", stream=stream)))
        await running.worker.calling()
        await running.stop()
        answer, record = await asking, await running.worker.books.only()
    assert (answer.status, answer.json["error"]["type"], answer.code) == (500, "api_error", None)
    assert (record.outcome, record.cost) == ("upstream_failed", 0)


@BOTH
async def test_a_stream_that_is_cut_while_the_worker_drains_costs_nothing_for_its_edge_may_have_ended(
    simulator: Simulator, name: str
) -> None:
    async with started(name, simulator.url, grace_s=DEADLINE_S) as running:
        async with running.worker.post(chat(name, LONG, stream=True)) as answer:
            await answer.content.readany()
            running.worker.app[DRAINING].set()
        record = await running.worker.books.only()
        assert (record.outcome, record.cost) == ("upstream_interrupted", 0)


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_that_is_cut_before_it_begins_while_the_worker_drains_costs_nothing(
    simulator: Simulator, name: str, stream: bool
) -> None:
    async with started(name, simulator.url, grace_s=DEADLINE_S) as running:
        asking = asyncio.create_task(running.worker.ask(chat(name, "Hi [[mute]]", stream=stream)))
        await running.worker.calling()
        running.worker.app[DRAINING].set()
        asking.cancel()
        record = await running.worker.books.only()
        assert (record.outcome, record.cost) == ("upstream_failed", 0)


@pytest.mark.parametrize(("grace_s", "source"), [(DEADLINE_S, "reported"), (0.1, "estimated")])
async def test_an_answer_of_google_that_nobody_waits_for_settles_before_the_worker_is_gone(
    simulator: Simulator, grace_s: float, source: str
) -> None:
    prompt = "A story [[tokens=200 chunks=5 chunk_delay_ms=100]]" if source == "reported" else LONG
    async with started("google", simulator.url, grace_s) as running:
        async with running.worker.post(chat("google", prompt, stream=True)) as answer:
            await answer.content.readany()
        await running.worker.left()
        await running.stop()
        (record,) = running.worker.books.records
    assert (record.outcome, record.usage_source) == ("client_disconnected", source)
    assert record.cost == record.owed > 0


async def test_a_client_that_takes_no_more_until_the_deadline_pays_for_what_had_come() -> None:
    body = json.dumps(chat("anthropic", "A library", stream=True)).encode()
    loop = asyncio.get_running_loop()
    async with provider_that(never_ends) as url, started("anthropic", url, DEADLINE_S) as running:
        with slow(running.worker.url) as client:
            await loop.sock_sendall(client, HEAD % len(body) + body)
            record = await running.worker.books.only()  # nothing of the answer is read until then
            rest = b""
            while not rest.endswith(b"0\r\n\r\n"):
                rest = rest[-1000:] + await loop.sock_recv(client, 1024 * 1024)
    assert (record.outcome, record.usage_source) == ("client_disconnected", "estimated")
    assert record.cost == record.owed > 0
    assert b'"upstream_timeout"' in rest, "a client that comes back is told that this is not the whole answer"
