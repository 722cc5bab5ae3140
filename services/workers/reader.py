"""Reading a provider's event stream: bytes in, deltas out, as they come and wherever they are cut."""

import aiohttp

from services.workers.provider import RETRIES, ChatStream, Delta, Failed, Usage
from services.workers.upstream import reading, understanding
from shared.errors import NoSupplier
from shared.money import Tokens
from shared.sse import Decoder, EventTooLarge

PIECE_BYTES = 64 * 1024  # translated at once: what a client that reads slowly is sent next is held in several forms


class Translation:
    """From bytes to deltas, without I/O. `text_bytes` counts what came, for estimates."""

    def __init__(self, stream: ChatStream) -> None:
        self.stream, self.text_bytes = stream, 0
        self._decoder = Decoder()
        self._failed: Failed | None = None

    def feed(self, chunk: bytes) -> list[Delta]:
        """The deltas of this chunk. A failure waits until the deltas before it are out. Raises Failed."""
        if self._failed is not None:
            raise self._failed
        deltas: list[Delta] = []
        try:
            with understanding():
                for event in self._decoder.feed(chunk):
                    deltas += self.stream.feed(event)
        except EventTooLarge as error:
            self._failed = Failed(NoSupplier(), str(error))
        except Failed as failed:
            self._failed = failed
        if self._failed is not None and not deltas:
            raise self._failed
        self.text_bytes += sum(len(str(value).encode()) for delta in deltas for value in delta.values())
        return deltas

    @property
    def usage(self) -> Usage:
        """What is counted by now; nothing, so that it is estimated, where that is not what counts are."""
        try:
            with understanding():
                return self.stream.usage
        except Failed:
            return Usage(Tokens())

    def end(self) -> None:
        """The bytes have ended. Raises Failed where the provider had not said that it was done."""
        if self._failed is not None:
            raise self._failed
        if self.stream.finish is None:
            raise Failed(NoSupplier(), "upstream closed the connection", retries=RETRIES)


class Reader:
    """The deltas of one streamed answer, read off a connection."""

    def __init__(self, stream: ChatStream, content: aiohttp.StreamReader) -> None:
        self.translation = Translation(stream)
        self._content = content

    async def read(self) -> list[Delta] | None:
        """The next deltas of those that are here; None at the end. Raises Failed, also for an end without a finish."""
        while True:
            try:
                with reading():
                    chunk = await self._content.read(PIECE_BYTES)
            except Failed:
                if self.translation.stream.finish is None:
                    raise
                chunk = b""  # it was all said; how the connection ended no longer matters
            if not chunk:
                self.translation.end()
                return None
            if deltas := self.translation.feed(chunk):
                return deltas
