"""The hop to a worker: connections are kept, broken answers are noticed, and a slow client holds no memory."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from yarl import URL

from services.edge import client as client_module
from services.edge.client import READ_BYTES, Client
from services.edge.reply import HIGH_WATER_BYTES, WorkerGone
from shared.drain import LINGER_S
from tests.unit.workers.running import until

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\nhello"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(talk: Talk) -> AsyncIterator[URL]:
    """A worker that is nothing but its side of a conversation."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield URL(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/x")


async def request(reader: asyncio.StreamReader) -> bytes:
    """One whole request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
    return head + await reader.readexactly(length)


async def answered(client: Client, url: URL, body: bytes = b"{}") -> tuple[int, bytes]:
    connection = await client.connection((str(url.host), url.port or 0))
    async with client.post(connection, url.path, {"x-a": "b"}, body) as reply:
        return reply.status, await reply.read()


async def test_an_answer_is_read_and_its_connection_is_used_again() -> None:
    connections = 0
    seen = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            seen.append(await request(reader))
            writer.write(OK)

    client = Client()
    async with server(talk) as url:
        assert [await answered(client, url) for _ in range(3)] == [(200, b"hello")] * 3
        client.close()
    assert connections == 1
    assert seen[0].startswith(b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nx-a: b\r\n\r\n{}")


@pytest.mark.parametrize("cut", range(1, len(OK), 7))
async def test_where_an_answer_is_cut_changes_nothing(cut: int) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK[:cut])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(OK[cut:])

    client = Client()
    async with server(talk) as url:
        assert await answered(client, url) == (200, b"hello")
        client.close()


@pytest.mark.parametrize(
    "sent",
    [b"", OK[:20], OK[:-2], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"nonsense\r\n"],
)
async def test_an_answer_that_does_not_end_is_never_taken_for_a_whole_one(sent: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(sent)

    client = Client()
    async with server(talk) as url:
        with pytest.raises(WorkerGone):
            await answered(client, url)
        client.close()


async def test_chunks_come_as_they_are_sent() -> None:
    go_on = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await go_on.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    client = Client()
    async with server(talk) as url:
        connection = await client.connection((str(url.host), url.port or 0))
        async with client.post(connection, url.path, {}, b"") as reply:
            assert await reply.readany() == b"one"
            go_on.set()
            assert await reply.read() == b"two"
        assert connection.free
        client.close()


async def test_leaving_before_the_end_cuts_the_connection() -> None:
    left = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        left.set()

    client = Client()
    async with server(talk) as url:
        connection = await client.connection((str(url.host), url.port or 0))
        async with client.post(connection, url.path, {}, b"") as reply:
            await reply.readany()
        async with asyncio.timeout(10):
            await left.wait()
        assert not connection.usable


async def test_a_client_that_reads_slowly_holds_little_memory() -> None:
    sent = 0
    piece = b"x" * 65536

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(piece) * 400))
        for _ in range(400):
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    client = Client()
    async with server(talk) as url:
        connection = await client.connection((str(url.host), url.port or 0))
        async with client.post(connection, url.path, {}, b"") as reply:
            held = len(await reply.readany())
            await until(lambda: reply._held_bytes > HIGH_WATER_BYTES, "the reader has fallen behind")
            held += len(await reply.readany())
            assert held <= 2 * (HIGH_WATER_BYTES + READ_BYTES)
            assert held + len(await reply.read()) == len(piece) * 400
        client.close()


async def test_an_idle_connection_is_closed_by_the_edge_before_a_worker_that_drains_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert client_module.IDLE_S < LINGER_S
    monkeypatch.setattr(client_module, "IDLE_S", 0.1)
    left = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK)
        assert await reader.read() == b""
        left.set()

    client = Client()
    async with server(talk) as url, asyncio.timeout(10):
        await answered(client, url)
        await left.wait()
        assert not client._idle, "nothing is kept of an address that may never come back"
        client.close()


async def test_each_connection_is_idle_for_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "IDLE_S", 0.2)
    left: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1):
            await request(reader)
            writer.write(OK)
        left.append(writer)

    client = Client()
    async with server(talk) as url, contextlib.AsyncExitStack() as both:
        for _ in range(2):
            connection = await client.connection((str(url.host), url.port or 0))
            reply = await both.enter_async_context(client.post(connection, url.path, {}, b"{}"))
            assert await reply.read() == b"hello"
        await both.aclose()
        while not left:  # one of the two is kept in use until the other one was closed
            assert await answered(client, url) == (200, b"hello")
        assert await answered(client, url) == (200, b"hello")
        assert len(left) == 1
        client.close()


async def test_a_connection_that_the_worker_has_closed_is_not_used_even_before_the_loop_hears_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "IDLE_S", 600.0)
    connections, deadline = 0, time.monotonic() + 10
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            nonlocal connections
            for _ in range(2):
                accepted, _ = listening.accept()
                connections += 1
                with accepted:
                    assert accepted.recv(4096)
                    accepted.sendall(OK)
                    answered_once.wait(10)

        client, answered_once = Client(), threading.Event()
        url = URL(f"http://127.0.0.1:{listening.getsockname()[1]}/v1/x")
        worker = threading.Thread(target=serve)
        worker.start()
        assert await answered(client, url) == (200, b"hello")
        (kept,) = client._idle[str(url.host), url.port or 0]
        answered_once.set()
        while kept.usable:  # the loop does not run meanwhile: only the kernel can know
            assert time.monotonic() < deadline
        assert kept.free
        assert await answered(client, url) == (200, b"hello")
        client.close()
        worker.join()
    assert connections == 2


async def test_bytes_that_nobody_asked_for_are_never_taken_for_the_next_answer() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK + OK.replace(b"hello", b"wrong"))

    client = Client()
    async with server(talk) as url:
        for _ in range(3):
            assert await answered(client, url) == (200, b"hello")
        client.close()
