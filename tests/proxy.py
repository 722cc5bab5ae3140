"""A network between a test and a server, which the test can cut or freeze."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

CHUNK_BYTES = 65_536


class Proxy:
    """Relays TCP connections to a server. What is frozen keeps its connections open, and nothing passes."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._passing.set()

    @property
    def connections(self) -> int:
        """How many are relayed now."""
        return len(self._open) // 2

    def cut(self) -> None:
        """Reset every connection that is open now."""
        for writer in self._open:
            writer.transport.abort()

    def freeze(self) -> None:
        """Let nothing pass, either way."""
        self._passing.clear()

    def thaw(self) -> None:
        """Go on; what was sent meanwhile arrives."""
        self._passing.set()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            to_reader, to_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, to_writer}
        try:
            await asyncio.gather(self._pump(reader, to_writer), self._pump(to_reader, writer))
        finally:
            self._open -= {writer, to_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy to the server of a URL for the length of the block, and the URL through it."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    proxy = Proxy(parts.hostname, parts.port)
    server = await asyncio.start_server(proxy.relay, "127.0.0.1", 0)
    login = parts.netloc.rpartition("@")[0]
    port = server.sockets[0].getsockname()[1]
    try:
        yield proxy, parts._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()
    finally:
        proxy.thaw()
        server.close()
        proxy.cut()
        await server.wait_closed()
