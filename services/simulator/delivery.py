"""Sends a script to the client: in odd pieces, slowly, not at all, or broken, as it says; then writes it down."""

import asyncio
import re
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from typing import NamedTuple

from aiohttp import web

from services.simulator.script import Frame, Outcome, Script
from services.simulator.served import Served, ServedLog
from shared.events import utc_text

MAX_SHIFT_BYTES = 8  # how far a write may end from the end of its event: before its last braces, into the next name

_INSIDE_CHARACTER = re.compile(rb"[\x80-\xbf]")


class Ticket(NamedTuple):
    """What is known of a request before it is answered."""

    number: int
    provider: str
    operation: str
    started: datetime


class Delivery:
    """One answer on its way to one client."""

    def __init__(self, request: web.Request, script: Script, ticket: Ticket, log: ServedLog) -> None:
        self._request, self._script, self._ticket, self._log = request, script, ticket, log
        self._status: int | None = None
        self._sent_bytes = 0

    async def run(self, stopping: asyncio.Event) -> web.StreamResponse:
        """Send it all. A client that leaves is written down with what had been sent to it.

        The entry is made before the end of the body is sent, so that whoever has read the answer finds it.
        """
        try:
            response = await self._send(stopping)
        except (ConnectionResetError, asyncio.CancelledError):
            self._record("client_left")
            raise
        self._record(self._script.body.outcome)
        if self._script.body.cut and self._request.transport is not None:
            self._request.transport.close()
        else:
            await response.write_eof()
        return response

    async def _send(self, stopping: asyncio.Event) -> web.StreamResponse:
        script = self._script
        if script.directives.delay_ms:
            await asyncio.sleep(script.directives.delay_ms / 1000)
        if script.directives.mute:
            await stopping.wait()
        response = web.StreamResponse(status=script.status, headers=script.headers)
        response.content_length = script.body.length
        await response.prepare(self._request)
        self._status = script.status
        for data in self._pieces():
            await response.write(data)
            self._sent_bytes += len(data)
            if script.body.length is None:  # without a pause the loop would send several pieces at once
                await asyncio.sleep(script.directives.chunk_delay_ms / 1000)
        return response

    def _pieces(self) -> Iterator[bytes]:
        frames = self._script.body.frames
        if self._script.directives.chunk_delay_ms or self._script.body.length is not None:
            return (frame.data for frame in frames)
        return odd_pieces(frames, self._script.seed)

    def _record(self, outcome: Outcome) -> None:
        script, ticket = self._script, self._ticket
        ends = list(accumulate(len(frame.data) for frame in script.body.frames))
        self._log.add(
            Served(
                number=ticket.number,
                provider=ticket.provider,
                operation=ticket.operation,
                model=script.model,
                upstream_request_id=script.upstream_request_id,
                response_id=script.response_id,
                streamed=script.body.length is None,
                status=self._status,
                outcome=outcome,
                tokens=script.tokens_after(bisect_right(ends, self._sent_bytes)),
                reported=script.reported,
                started_at=utc_text(ticket.started),
                ended_at=utc_text(datetime.now(UTC)),
            )
        )


def odd_pieces(frames: list[Frame], seed: bytes) -> Iterator[bytes]:
    """About one piece a frame, but cut at odd places, one of them inside a character if any is longer than a byte."""
    data = b"".join(frame.data for frame in frames)
    ends = accumulate(len(frame.data) for frame in frames)
    cuts = {end + seed[i % len(seed)] % (2 * MAX_SHIFT_BYTES + 1) - MAX_SHIFT_BYTES for i, end in enumerate(ends)}
    if inside := _INSIDE_CHARACTER.search(data):
        cuts.add(inside.start())
    places = sorted({0, len(data)} | {cut for cut in cuts if 0 < cut < len(data)})
    return (data[start:end] for start, end in pairwise(places))
