"""A network that can fail: a TCP proxy between our services and a server, which tests can cut and freeze."""

import asyncio
import contextlib
from collections.abc import Sequence

from tests.faults.background import Background

PIECE_BYTES = 64 * 1024
ACCEPTED_S = 0.01  # within this time the loop has told us of what it accepted before


class Link:
    """`port` leads to the first of `targets` (ports of 127.0.0.1) that accepts; several make it a load balancer."""

    def __init__(self, port: int, targets: Sequence[int]) -> None:
        self.port = port
        self._targets = targets
        self._background = Background()
        self._passes = asyncio.Event()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self.heal()

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        self._background.run(self._cut())

    def freeze(self) -> None:
        """Let no byte through in either direction; nobody is told. New connections hang, too."""
        self._background.run(self._freeze())

    def heal(self) -> None:
        """Let everything through again; what was frozen arrives late."""
        self._background.run(self._heal())

    def close(self) -> None:
        self.cut()
        self._background.close()

    async def _heal(self) -> None:
        self._passes.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)

    async def _freeze(self) -> None:
        self._passes.clear()

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await asyncio.sleep(ACCEPTED_S)
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._connections[task] = writer  # before it runs: it may be cancelled before that
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).transport.abort()
        if not task.cancelled():
            task.exception()  # either end broke off, which the other one is told by the abort

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passes.wait()
        for port in self._targets:
            with contextlib.suppress(ConnectionRefusedError):
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
                break
        else:
            return
        try:
            there = asyncio.create_task(self._pump(reader, far_writer))
            back = asyncio.create_task(self._pump(far_reader, writer))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
        finally:
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                await self._passes.wait()
                writer.write(data)
                await writer.drain()
