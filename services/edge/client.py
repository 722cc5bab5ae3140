"""A lean HTTP/1.1 client for the hop to the workers, whose both ends are ours (RFC 9112; parsed by llhttp).

One request at a time on a connection that is kept, and this end closes it first: a worker that drains waits for that,
so no request meets a closing connection. Only one that is killed can still be written to before its end is heard of:
such a request may have begun, so it is lost and told as lost, never sent twice.
"""

import asyncio
import contextlib
import select
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from functools import partial
from time import monotonic
from typing import cast

import httptools

from services.edge.reply import Reply, WorkerGone

CONNECT_TIMEOUT_S = 2.0  # within a cluster a connection takes a millisecond
IDLE_S = 5.0  # an unused connection is closed, well before a worker that drains stops waiting for it (LINGER_S)
READ_BYTES = 64 * 1024  # taken off a connection at once; the loop's own choice would be four times as much

Address = tuple[str, int]
"""Where a worker listens: its IP address and port."""


class Connection(asyncio.BufferedProtocol):
    """One connection to one worker; it carries a request only while no other is on it.

    `buffer` may serve all connections: what arrives in it is taken out before the loop reads again.
    """

    def __init__(self, address: Address, buffer: memoryview) -> None:
        self.address, self.idle_since, self._buffer = address, 0.0, buffer
        self._reply: Reply | None = None

    @property
    def free(self) -> bool:
        """Whether it is open, and the last answer has ended."""
        return self._reply is None and not self._transport.is_closing()

    @property
    def usable(self) -> bool:
        """Whether a new request may go out on it: the worker has sent nothing meanwhile, nor closed it.

        The kernel is asked, because it knows before the loop does.
        """
        if not self.free or monotonic() - self.idle_since >= IDLE_S:
            return False
        arrived = select.poll()
        arrived.register(self._socket, select.POLLIN)
        return not arrived.poll(0)

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
        self._socket: int = transport.get_extra_info("socket").fileno()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's guess, which is far too large
        """Called by the loop."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop."""
        try:
            self._parser.feed_data(self._buffer[:nbytes])
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
        self._idle: defaultdict[Address, list[Connection]] = defaultdict(list)
        self._reaper: asyncio.TimerHandle | None = None
        self._buffer = memoryview(bytearray(READ_BYTES))

    async def connection(self, address: Address) -> Connection:
        """A connection with no request on it; the one used last is taken first. Raises OSError."""
        idle = self._idle[address]
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
            connection.cut()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                partial(Connection, address, self._buffer), *address
            )
        return connection

    @contextlib.asynccontextmanager
    async def post(
        self, connection: Connection, path: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[Reply]:
        """An answer that has begun; its connection is cut when the block is left before its end. Raises WorkerGone."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        host = connection.address[0]
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
        try:
            reply = connection.send(head.encode("latin-1"), body)
            await reply.begun()
            yield reply
        finally:
            if connection.free:
                self._keep(connection)
            else:
                connection.cut()

    def forget(self, address: Address) -> None:
        """Close the connections to this address that carry nothing."""
        for connection in self._idle.pop(address, ()):
            connection.cut()

    def close(self) -> None:
        """Close all connections that carry nothing."""
        for address in list(self._idle):
            self.forget(address)
        if self._reaper is not None:
            self._reaper.cancel()

    def _keep(self, connection: Connection) -> None:
        self._idle[connection.address].append(connection)
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(IDLE_S, self._reap)

    def _reap(self) -> None:
        """Close what was idle for IDLE_S, and come back when the next one will have been."""
        now, self._reaper = monotonic(), None
        for address, idle in list(self._idle.items()):
            while idle and now - idle[0].idle_since >= IDLE_S:
                idle.pop(0).cut()
            if not idle:
                del self._idle[address]
        if self._idle:
            oldest = min(idle[0].idle_since for idle in self._idle.values())
            self._reaper = asyncio.get_running_loop().call_later(oldest + IDLE_S - now, self._reap)
