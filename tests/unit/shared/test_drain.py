"""A service that ends loses no answer: it says that it ends, waits to be left, finishes what runs, and is bounded."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_exceptions import ClientConnectorError

from shared import drain, http
from tests.unit.workers.running import until

DEADLINE_S = 20.0
LINGER_S = 0.4  # long enough for a few round trips on a busy machine


class Service:
    """A service that can be told to stop, with an answer that runs until it is told to end."""

    def __init__(self, linger_s: float, grace_s: float) -> None:
        self.begun, self.finish = asyncio.Event(), asyncio.Event()
        self.app = http.build_app("test", {})
        self.app.router.add_get("/slow", self._slow)
        self._stack = contextlib.AsyncExitStack()
        self._linger_s, self._grace_s = linger_s, grace_s

    async def _slow(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b"first,")
        self.begun.set()
        await self.finish.wait()
        await stream.write(b"last")
        return stream

    async def start(self) -> str:
        bounds = {"linger_s": self._linger_s, "grace_s": self._grace_s}
        port = await self._stack.enter_async_context(http.listening(self.app, "127.0.0.1", 0, **bounds))
        return f"http://127.0.0.1:{port}"

    def stop(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._stack.aclose())


@contextlib.asynccontextmanager
async def serving(linger_s: float = LINGER_S, grace_s: float = 30.0) -> AsyncIterator[tuple[Service, str]]:
    service = Service(linger_s, grace_s)
    url = await service.start()
    try:
        yield service, url
    finally:
        service.finish.set()
        await service.stop()


def client(*, kept_s: float = 60.0) -> aiohttp.ClientSession:
    """A client that keeps its connections for so long."""
    connector = aiohttp.TCPConnector(keepalive_timeout=kept_s)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(DEADLINE_S))


async def test_a_service_that_drains_says_so_and_still_answers_new_connections() -> None:
    async with serving() as (service, url), client() as before, client() as after:
        async with before.get(f"{url}/ready") as answer:
            assert (answer.status, answer.headers.get("Connection")) == (200, None)
        ending = service.stop()
        await asyncio.sleep(0)
        for session in (before, after):
            async with session.get(f"{url}/ready") as answer:
                assert (answer.status, answer.headers["Connection"]) == (503, "close")
                assert (await answer.json())["status"] == "draining"
            async with session.get(f"{url}/health") as answer:
                assert (answer.status, answer.headers["Connection"]) == (200, "close")
        await asyncio.wait_for(ending, DEADLINE_S)
        with pytest.raises(ClientConnectorError):
            await after.get(f"{url}/health")


async def test_a_stream_that_runs_is_finished_though_new_connections_are_refused() -> None:
    async with serving() as (service, url), client() as session, session.get(f"{url}/slow") as stream:
        await service.begun.wait()
        ending = service.stop()
        await until(lambda: _closed(url), "new connections are refused")
        assert not ending.done()
        service.finish.set()
        assert await stream.read() == b"first,last"
        await asyncio.wait_for(ending, DEADLINE_S)


async def test_a_kept_connection_is_answered_on_until_its_client_has_had_the_time_to_leave_it() -> None:
    """Its stream began before the drain, so the client has not heard of that; it may send on it as the stream ends."""
    async with serving() as (service, url), client() as session:
        async with session.get(f"{url}/slow") as stream:
            await service.begun.wait()
            ending = service.stop()
            await until(lambda: _closed(url), "new connections are refused")
            service.finish.set()
            await stream.read()
        await asyncio.sleep(3 * drain.TICK_S)  # which is how long this client has nothing to ask
        async with session.get(f"{url}/health") as answer:  # a new connection would be refused
            assert answer.headers["Connection"] == "close"
        await asyncio.wait_for(ending, DEADLINE_S)


async def _closed(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionError:
        return True
    writer.close()
    return False


async def test_a_client_that_keeps_its_connection_for_ever_does_not_hold_the_end_up() -> None:
    async with serving() as (service, url), client(kept_s=600) as session:
        async with session.get(f"{url}/health"):
            pass
        await asyncio.wait_for(service.stop(), DEADLINE_S)


async def test_a_stream_that_outlasts_the_grace_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CUT_S", 0.05)
    async with serving(0.0, 0.1) as (service, url), client() as session, session.get(f"{url}/slow") as stream:
        await service.begun.wait()
        await asyncio.wait_for(service.stop(), DEADLINE_S)
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.read()


async def test_what_is_under_way_without_a_connection_is_waited_for() -> None:
    service = Service(0.0, 30.0)
    under_way = ["a settlement"]
    service.app[drain.UNDER_WAY] = under_way
    await service.start()
    ending = service.stop()
    assert not (await asyncio.wait([ending], timeout=4 * drain.TICK_S))[0]
    under_way.clear()
    await asyncio.wait_for(ending, DEADLINE_S)


def test_the_whole_end_fits_into_what_it_is_given() -> None:
    assert 2 * drain.CUT_S < drain.FLUSH_S


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
async def test_one_signal_ends_in_order_and_a_second_one_at_once(
    name: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"""
import asyncio
from functools import partial
from shared import http
http.AGAIN_S = 0.0
async def main():
    asyncio.get_running_loop().call_soon(partial(print, "up", flush=True))
    await http.until_told_to_stop()
    await asyncio.sleep(0.01)
    print("stopping", flush=True)
    await asyncio.sleep({DEADLINE_S * 10})
http.run(main())
"""
    pipe, env = asyncio.subprocess.PIPE, os.environ | {"PYTHONPATH": ":".join(sys.path)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=pipe, stderr=pipe, env=env)
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        for said in (b"up\n", b"stopping\n"):
            assert await process.stdout.readline() == said
            process.send_signal(name)
        assert await process.communicate() == (b"", b""), "nobody wants a traceback then"
    assert process.returncode == -name
