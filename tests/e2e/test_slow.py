"""Clients that hardly read, streams by the thousand, a provider that never answers: nobody else suffers from them."""

import asyncio
import contextlib
import http.client
import json
import os
import sys
from collections.abc import AsyncIterator, Collection
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from tests.e2e import stacks
from tests.e2e.load import MODELS
from tests.e2e.stacks import INTERNAL, Service, Stack
from tests.unit.workers.running import never_ends, provider_that, slow, until

ANTHROPIC, GOOGLE = MODELS
KIB = 1024
AT_ONCE = 100  # connections that are opened at the same time: fewer than a listener's backlog
BEGIN_TIMEOUT_S = 60.0  # for the first words of a stream, on a busy machine
STREAM_KIB = 256  # five times the goal for an open stream: bounded is what is proven here, `make bench` measures
SLOW_KIB = 2048  # of edge and worker together, for a slow reader: what their buffers hold on both hops, in every form
SLOW_READERS = 5

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Open:
    """A stream that has begun; its client is free not to read it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def call(stack: Stack, model: str, prompt: str) -> bytes:
    """A streamed chat request, as bytes."""
    message = {"role": "user", "content": prompt}
    asked = {"model": model, "stream": True, "max_tokens": 400, "messages": [message]}  # 2,000 within 10 USD
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {stack.key}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def begin(stack: Stack, prompt: str, turns: asyncio.Semaphore) -> Open:
    """A stream, read until it has said something."""
    address = urlsplit(stack.base_url)
    async with turns, asyncio.timeout(BEGIN_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=4 * KIB)
        writer.write(call(stack, ANTHROPIC, prompt))
        await reader.readuntil(b'"content"')
    return Open(reader, writer)


@contextlib.asynccontextmanager
async def streams(stack: Stack, count: int, prompt: str) -> AsyncIterator[None]:
    """So many streams, all open at once."""
    turns = asyncio.Semaphore(AT_ONCE)
    opened = await asyncio.gather(*(begin(stack, prompt, turns) for _ in range(count)))
    try:
        yield
    finally:
        await asyncio.gather(*(one.close() for one in opened))


def rss_kib(service: Service) -> int:
    """The memory that a process has in use."""
    pages = int(Path(f"/proc/{service.process.pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // KIB


def grown_kib(services: Collection[Service], before: list[int], count: int) -> list[float]:
    """KiB that each service uses more for each of `count` streams; printed, as they are worth knowing."""
    grown = [(rss_kib(one) - was) / count for one, was in zip(services, before, strict=True)]
    sys.stdout.write(", ".join(f"{one.name}: {kib:.0f} KiB" for one, kib in zip(services, grown, strict=True)))
    sys.stdout.write(f" for each of {count} streams\n")
    return grown


async def answered(stack: Stack, model: str) -> Any:
    """An ordinary call."""
    async with openai.AsyncOpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=0, timeout=30) as client:
        answer = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello"}])
    return answer.choices[0].message.content


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.long)])
async def test_open_streams_take_little_memory_each_and_nobody_waits_for_them(
    separate_stack: Stack, count: int
) -> None:
    services = [separate_stack.services[name] for name in ("edge", "worker-anthropic")]
    known = len(separate_stack.records())
    async with streams(separate_stack, 20, "Hello"):  # what the first streams bring into memory is no stream's own
        before = [rss_kib(one) for one in services]
    async with streams(separate_stack, count, "A story [[tokens=400 chunks=200 chunk_delay_ms=3000]]"):
        assert max(grown_kib(services, before, count)) < STREAM_KIB
        for model in MODELS:
            assert await answered(separate_stack, model)
    await until(lambda: len(separate_stack.records()) == known + 20 + count + len(MODELS), "every one is on record")


async def test_readers_that_read_hardly_anything_hold_little_memory_and_nobody_up() -> None:
    said: list[int] = []
    async with provider_that(partial(never_ends, said=said)) as url:
        with (
            stacks.local({"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": url}) as stack,
            contextlib.ExitStack() as held,
        ):
            service, loop = stack.services["local"], asyncio.get_running_loop()
            await answered(stack, GOOGLE)
            before = [rss_kib(service)]
            readers = [held.enter_context(slow(stack.base_url)) for _ in range(SLOW_READERS)]
            for reader in readers:
                await loop.sock_sendall(reader, call(stack, ANTHROPIC, "A library"))

            async def held_up() -> bool:
                """A byte for each reader in a second, and in this second nothing more from the provider."""
                for reader in readers:
                    await loop.sock_recv(reader, 1)
                events = len(said)
                await asyncio.sleep(1)
                return 0 < events == len(said)

            await until(held_up, "the provider has to wait for the slowest reader")
            assert max(grown_kib([service], before, SLOW_READERS)) < SLOW_KIB
            assert await answered(stack, GOOGLE)


async def test_a_provider_that_never_answers_is_waited_for_until_the_deadline_and_by_nobody_else(
    separate_stack: Stack,
) -> None:
    async with contextlib.AsyncExitStack() as held:
        for _ in range(50):
            address = urlsplit(separate_stack.base_url)
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            held.push_async_callback(Open(reader, writer).close)
            writer.write(call(separate_stack, ANTHROPIC, "Say nothing [[mute]]"))
        for model in MODELS:
            assert await answered(separate_stack, model)
        status, answer = await asyncio.to_thread(at_the_worker, separate_stack.services["worker-anthropic"], 500)
    assert (status, answer["error"]["code"]) == (504, "upstream_timeout")


def at_the_worker(worker: Service, deadline_ms: int) -> tuple[int, Any]:
    """A call as an edge makes it, with a deadline that a test can wait for; its request id tells it from all others."""
    connection = http.client.HTTPConnection(urlsplit(worker.url).netloc, timeout=30)
    headers = {
        "Authorization": f"Bearer {INTERNAL}", "x-request-id": "0198c0de-0000-7000-8000-00000000dead",
        "x-opentoken-workspace": "demo", "x-opentoken-key": "none", "x-opentoken-deadline-ms": str(deadline_ms),
    }  # fmt: skip
    body = json.dumps({"model": ANTHROPIC, "messages": [{"role": "user", "content": "Say nothing [[mute]]"}]})
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        return response.status, json.load(response)
