"""A lean HTTP/1.1 client for the hop to the workers, whose both ends are ours (RFC 9112; parsed by llhttp).

One request at a time on a connection that is kept. A general client spends more on a request than the whole of the
edge's own work; what it is for (redirects, cookies, proxies, TLS, encodings) does not occur inside a cluster.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from time import monotonic
from typing import cast

import httptools
from yarl import URL

CONNECT_TIMEOUT_S = 2.0  # within a cluster a connection takes a millisecond
IDLE_S = 15.0  # an unused connection is kept for less long than the workers keep it, so that none is stale
HIGH_WATER_BYTES = 256 * 1024  # of an answer held for a client that reads slowly; then the worker has to wait


class WorkerGone(ConnectionError):
    """the connection broke before the answer was whole"""


class Reply:
    """One answer as it comes. Header names are lower case."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.status, self.headers, self.complete = 0, dict[str, str](), False
        self._transport, self._pieces, self._held_bytes = transport, list[bytes](), 0
        self._failed: WorkerGone | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip()

    async def begun(self) -> None:
        """Return once status and headers are here. Raises WorkerGone."""
        while not self.status:
            await self._change()

    async def readany(self) -> bytes:
        """What has come since the last call, at least a byte; b"" at the end. Raises WorkerGone."""
        while not self._pieces and not self.complete:
            await self._change()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self._held_bytes > HIGH_WATER_BYTES:
            self._transport.resume_reading()
        self._held_bytes = 0
        return data

    async def read(self) -> bytes:
        """All of it. Raises WorkerGone."""
        pieces = []
        while piece := await self.readany():
            pieces.append(piece)
        return b"".join(pieces)

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        """Called by the connection."""
        self.status, self.headers = status, headers
        self._wake()

    def on_body(self, data: bytes) -> None:
        """Called by the connection."""
        self._pieces.append(data)
        before, self._held_bytes = self._held_bytes, self._held_bytes + len(data)
        if before <= HIGH_WATER_BYTES < self._held_bytes:
            self._transport.pause_reading()
        self._wake()

    def on_end(self) -> None:
        """Called by the connection."""
        self.complete = True
        self._wake()

    def on_failure(self, why: WorkerGone) -> None:
        """Called by the connection."""
        self._failed = why
        self._wake()

    async def _change(self) -> None:
        if self._failed is not None:
            raise self._failed
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection to one worker; it carries a request only while no other is on it."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self._reply: Reply | None = None

    @property
    def usable(self) -> bool:
        """Whether a new request may go out on it."""
        return self._reply is None and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> Reply:
        """Begin a request."""
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._reply = Reply(self._transport)
        self._transport.writelines((head, body))
        return self._reply

    def cut(self) -> None:
        """Close it at once; the worker takes that for the client's leaving."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)  # by duck-typing: uvloop's has other ancestors

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        try:
            self._parser.feed_data(data)
        except (AttributeError, httptools.HttpParserError) as error:  # also: bytes that nobody asked for
            self.connection_lost(error)
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        if self._reply is not None:
            self._reply.on_failure(WorkerGone(str(exc or "the worker closed the connection")))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        assert self._reply is not None
        self._reply.on_head(self._parser.get_status_code(), self._headers)

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        assert self._reply is not None
        self._reply.on_body(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        assert self._reply is not None
        reply, self._reply = self._reply, None
        self.idle_since = monotonic()
        if not self._parser.should_keep_alive():
            self._transport.close()
        reply.on_end()


class Client:
    """The connections to all workers."""

    def __init__(self) -> None:
        self._idle: defaultdict[tuple[str, int], list[Connection]] = defaultdict(list)

    async def connection(self, host: str, port: int) -> Connection:
        """A connection with no request on it; the one used last is taken first. Raises OSError."""
        idle = self._idle[host, port]
        while idle:
            connection = idle.pop()
            if connection.usable and monotonic() - connection.idle_since < IDLE_S:
                return connection
            connection.cut()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
        return connection

    @contextlib.asynccontextmanager
    async def post(
        self, connection: Connection, url: URL, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[Reply]:
        """An answer that has begun; its connection is cut when the block is left before its end. Raises WorkerGone."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {url.raw_path} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
        try:
            reply = connection.send(head.encode("latin-1"), body)
            await reply.begun()
            yield reply
        finally:
            if connection.usable:
                self._idle[str(url.host), url.port or 80].append(connection)
            else:
                connection.cut()

    def close(self) -> None:
        """Close the connections that carry nothing."""
        for idle in self._idle.values():
            for connection in idle:
                connection.cut()
        self._idle.clear()
