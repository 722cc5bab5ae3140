"""One answer of a worker as it comes off its connection, and how much of it is held for a client that reads slowly."""

import asyncio

HIGH_WATER_BYTES = 64 * 1024  # of an answer held; then the worker has to wait


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
