"""A network that can fail: a TCP proxy between our services and a server, which tests can cut and freeze.

It accepts by itself: asyncio's server forgets to close what it has accepted at the moment in which it is closed.
"""

import asyncio
import contextlib
import socket
from collections.abc import Sequence

from tests.faults.background import Background

PIECE_BYTES = 64 * 1024


class Link:
    """`port` leads to the first of `targets` (ports of 127.0.0.1) that accepts; several make it a load balancer."""

    def __init__(self, port: int, targets: Sequence[int]) -> None:
        self.port = port
        self._targets = targets
        self._background = Background()
        self._passes = asyncio.Event()
        self._connections: dict[asyncio.Task[None], socket.socket] = {}
        self._listener: socket.socket | None = None
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
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    async def _freeze(self) -> None:
        self._passes.clear()

    async def _cut(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            near, _ = listener.accept()
            near.setblocking(False)
            task = asyncio.create_task(self._relay(near))
            self._connections[task] = near  # before it runs: it may be cancelled before that
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).close()
        if not task.cancelled():
            task.exception()  # either end broke off, which the other one is told by the abort

    async def _relay(self, near: socket.socket) -> None:
        await self._passes.wait()
        with contextlib.ExitStack() as ends:
            reader, writer = await asyncio.open_connection(sock=near)
            ends.callback(writer.transport.abort)
            for port in self._targets:
                with contextlib.suppress(ConnectionRefusedError):
                    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
                    break
            else:
                return
            ends.callback(far_writer.transport.abort)
            pumps = (
                asyncio.create_task(self._pump(reader, far_writer)),
                asyncio.create_task(self._pump(far_reader, writer)),
            )
            for pump in pumps:
                ends.callback(pump.cancel)
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                await self._passes.wait()
                writer.write(data)
                await writer.drain()
