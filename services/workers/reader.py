"""Reading a provider's event stream: bytes in, deltas out, as they come."""

import aiohttp

from services.workers.provider import ChatStream, Delta, Failed
from services.workers.upstream import reading
from shared.errors import NoSupplier
from shared.sse import Decoder, EventTooLarge

BROKEN = "upstream closed the connection"


class Reader:
    """The deltas of one streamed answer. `text_bytes` counts what came, for estimates."""

    def __init__(self, stream: ChatStream, content: aiohttp.StreamReader) -> None:
        self.stream, self.text_bytes = stream, 0
        self._content, self._decoder = content, Decoder()

    async def read(self) -> list[Delta] | None:
        """The next deltas, all that are here; None at the end. Raises Failed, also for an end without a finish."""
        while True:
            try:
                with reading():
                    chunk = await self._content.readany()
            except Failed:
                if self.stream.finish is not None:  # it was all said; how the connection ended no longer matters
                    return None
                raise
            if not chunk and self.stream.finish is None:
                raise Failed(NoSupplier(), BROKEN, retry=True)
            if not chunk:
                return None
            if deltas := self._deltas(chunk):
                return deltas

    def _deltas(self, chunk: bytes) -> list[Delta]:
        try:
            events = self._decoder.feed(chunk)
        except EventTooLarge as error:
            raise Failed(NoSupplier(), str(error)) from error
        deltas = [delta for event in events for delta in self.stream.feed(event)]
        self.text_bytes += sum(len(str(value).encode()) for delta in deltas for value in delta.values())
        return deltas
