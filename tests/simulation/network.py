"""The network: connections between processes as pairs of pipes, whose bytes take their time and come in pieces.

Bytes of one direction stay in order. A connection may break at any moment, for each end at another time, and what is
on its way is then lost.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.simulation.loop import PROCESS, Loop, Process

LATENCY_S = 0.002
LEARNS_S = 0.5  # until an end learns that the other one is gone
SPLIT = 0.2  # of the writes arrive in two pieces


class Pipe(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: "Network", process: Process, protocol: Any) -> None:
        super().__init__()
        self.process, self.protocol = process, protocol
        self.peer: Pipe
        self._network, self._loop = network, network.loop
        self._closing = self._gone = self._paused = False
        self._held: deque[bytes | None] = deque()
        self._arrivals: deque[float] = deque()  # of what its process has not come to yet
        self._reset_at = math.inf
        self._last_arrival = 0.0
        self._socket = SimpleNamespace(family=None, fileno=lambda: self, setsockopt=lambda *_: None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._socket if name == "socket" else default

    @property
    def readable(self) -> bool:
        """Whether something is here already, an end included, that its process may not have come to."""
        soonest = min([self._reset_at, *self._arrivals])
        return bool(self._held) or soonest <= self._loop.now

    def write(self, data: Any) -> None:
        """Send to the peer."""
        if self._closing or not data:
            return
        data, rng = bytes(data), self._loop.rng
        if len(data) > 1 and rng.random() < SPLIT:
            cut = 1 + int(rng.random() * (len(data) - 1))
            self._send(data[:cut])
            data = data[cut:]
        self._send(data)

    def writelines(self, list_of_data: Any) -> None:
        """Send as one."""
        self.write(b"".join(list_of_data))

    def _send(self, data: bytes | None) -> None:
        self._last_arrival = max(self._last_arrival + 1e-6, self._loop.now + self._loop.rng.random() * LATENCY_S)
        self.peer.expect(data, self._last_arrival)

    def expect(self, data: bytes | None, arrival: float) -> None:
        """The peer has sent it."""
        self._arrivals.append(arrival)
        self._loop.call_at(arrival, self.arrive, data, context=self.process.context)

    def arrive(self, data: bytes | None) -> None:
        """Take what the peer sent; None is its end."""
        self._arrivals.popleft()
        self._take(data)

    def _take(self, data: bytes | None) -> None:
        if self._gone or self._closing:
            return
        if self._paused:
            self._held.append(data)
        elif data is None:
            self.protocol.eof_received()
            self.close()
        elif isinstance(self.protocol, asyncio.BufferedProtocol):
            memoryview(self.protocol.get_buffer(-1))[: len(data)] = data
            self.protocol.buffer_updated(len(data))
        else:
            self.protocol.data_received(data)

    def close(self) -> None:
        """Send the end after what was written."""
        if not self._closing:
            self._send(None)
            self._leave()

    def abort(self) -> None:
        """Reset the connection."""
        if not self._closing:
            self.peer.reset_within(LATENCY_S)
            self._leave()

    def _leave(self) -> None:
        self._closing = True
        self._loop.call_soon(self.lose, None, context=self.process.context)

    def reset_within(self, delay_s: float) -> None:
        """Learn, some time from now, that the connection is gone; what arrives until then arrives."""
        delay_s *= self._loop.rng.random()
        self._reset_at = min(self._reset_at, self._loop.now + delay_s)
        self._loop.call_later(delay_s, self.lose, ConnectionResetError("reset"), context=self.process.context)

    def lose(self, error: Exception | None) -> None:
        """The connection is gone."""
        if not self._gone:
            self._gone = self._closing = True
            self._network.pipes.pop(self, None)
            self.protocol.connection_lost(error)

    def pause_reading(self) -> None:
        """Hold what arrives."""
        self._paused = True

    def resume_reading(self) -> None:
        """Take what was held."""
        self._paused = False
        while self._held and not self._paused:
            self._take(self._held.popleft())

    def is_reading(self) -> bool:
        return not self._paused

    def is_closing(self) -> bool:
        return self._closing

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0


class Poll:
    """`select.poll`, whose descriptors are pipes."""

    def __init__(self) -> None:
        self._pipes: list[Pipe] = []

    def register(self, pipe: Pipe, _: int) -> None:
        """Ask about this one, too."""
        self._pipes.append(pipe)

    def poll(self, _: int) -> list[Pipe]:
        """Those from which something can be read."""
        return [pipe for pipe in self._pipes if pipe.readable]


class Listener:
    """What asyncio's server is to aiohttp."""

    def __init__(self, address: str, close: Callable[[], None]) -> None:
        self.close, self.sockets = close, [SimpleNamespace(getsockname=lambda: (address, 8080))]

    async def wait_closed(self) -> None:
        """There is nothing to wait for."""


class Network:
    """All addresses and connections."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.names: dict[str, list[str]] = {}
        self.pipes: dict[Pipe, None] = {}  # in the order of their making, unlike a set
        self._listening: dict[str, tuple[Process, Any]] = {}

    def addresses(self, name: str) -> list[str]:
        """What a name resolves to."""
        return self.names.get(name, [name])

    def listen(self, factory: Any, address: str) -> Listener:
        """Take connections to an address."""
        process = PROCESS.get()
        self._listening[address] = process, factory
        process.at_crash.append(lambda: self._forget(process, address))
        return Listener(address, lambda: self._forget(process, address))

    async def connect(self, factory: Any, address: str) -> tuple[Pipe, Any]:
        """A connection to an address. Raises ConnectionRefusedError."""
        await asyncio.sleep(self.loop.rng.random() * LATENCY_S)
        candidates = [one for one in self.addresses(address) if one in self._listening]
        if not candidates:
            raise ConnectionRefusedError(f"nobody listens at {address}")
        server, server_factory = self._listening[self.loop.rng.choice(candidates)]
        ours = Pipe(self, PROCESS.get(), factory())
        theirs = Pipe(self, server, server.context.run(server_factory))
        ours.peer, theirs.peer = theirs, ours
        self.pipes |= {ours: None, theirs: None}
        self.loop.call_soon(theirs.protocol.connection_made, theirs, context=server.context)
        ours.protocol.connection_made(ours)
        return ours, ours.protocol

    def cut(self, pipe: Pipe) -> None:
        """Break a connection: each end learns of it by itself."""
        pipe.reset_within(LEARNS_S)
        pipe.peer.reset_within(LEARNS_S)

    def crashed(self, process: Process) -> None:
        """Break what a process leaves behind."""
        for pipe in [pipe for pipe in self.pipes if pipe.process is process]:
            self.pipes.pop(pipe, None)
            pipe.peer.reset_within(LEARNS_S)

    def _forget(self, process: Process, address: str) -> None:
        if self._listening.get(address, (None,))[0] is process:
            del self._listening[address]
