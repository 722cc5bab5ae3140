"""Relaying an answer as bytes, and reading the settled mark off its end.

A worker ends a stream with `data: [DONE]` and then the comment `: settled <pico> <tokens>`: the usage is durable, and
that is what it cost and used. What comes before is passed on as it comes; the mark is for us and stays here. No
answer can fake the end, because JSON writes a line break inside a string as two characters.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

import orjson
import structlog
from aiohttp import web

from services.edge.reply import Reply, WorkerGone
from services.edge.workers import Workers
from shared.errors import ApiError, WorkerLost
from shared.failpoints import passing
from shared.http import ClientLeft
from shared.money import usd

log = structlog.get_logger()

DONE = b"data: [DONE]\n\n"
MARK = re.compile(rb": settled ([0-9]+) ([0-9]+)\n\n")
LONGEST_S = 660.0  # longer than the deadline that a worker keeps by itself, so that its own word comes first
LAST_WORDS_S = 10.0  # for a client that reads slowly to take in that its stream is broken
STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
KEPT_HEADERS = ("content-type", "retry-after")


class Lost(Exception):
    """The worker was lost before its answer was settled; `stream`, where that had begun."""

    def __init__(self, stream: "Stream | None") -> None:
        super().__init__("the worker was lost")
        self.stream = stream


class Stream:
    """The client's end of a stream. Writing raises ClientLeft: aiohttp would raise the same as for a lost worker."""

    def __init__(self) -> None:
        self.response = web.StreamResponse(headers=STREAM_HEADERS)
        self.waiting = False

    async def begin(self, request: web.Request) -> None:
        """Commit the status."""
        try:
            await self.response.prepare(request)
        except ConnectionResetError:
            raise ClientLeft from None

    async def write(self, data: bytes) -> None:
        """Write, and be `waiting` as long as the client takes no more."""
        self.waiting = True
        try:
            await self.response.write(data)
        except ConnectionResetError:
            raise ClientLeft from None
        self.waiting = False

    async def end(self) -> None:
        """Close the stream."""
        try:
            await self.response.write_eof()
        except ConnectionResetError:
            raise ClientLeft from None


@dataclass(frozen=True, slots=True)
class Settled:
    """What an answer cost, and how many tokens it used in all."""

    cost_pico: int
    tokens: int


class Ending:
    """Watches a stream go by for its end. What may be the beginning of that is held back until it is one, or not: no
    end may reach a client in part, for what is told after a worker is lost would make it whole.
    """

    __slots__ = ("_held", "_mark", "complete")

    def __init__(self) -> None:
        self._held, self._mark = b"", b""
        self.complete = False

    def feed(self, chunk: bytes) -> bytes:
        """What is the client's now."""
        if self.complete:
            self._mark += chunk
            return b""
        seen = self._held + chunk
        if (place := seen.find(DONE)) >= 0:
            self.complete = True
            end = place + len(DONE)
            self._mark = seen[end:]
            return seen[:end]
        # The one `d` of the end is its first byte.
        place = seen.rfind(b"d", 1 - len(DONE))
        if place < 0 or not DONE.startswith(seen[place:]):
            place = len(seen)
        self._held = seen[place:]
        return seen[:place]

    @property
    def settled(self) -> Settled | None:
        """What the mark says; None where there is none."""
        mark = MARK.fullmatch(self._mark)
        return Settled(int(mark[1]), int(mark[2])) if mark else None


@dataclass(frozen=True, slots=True)
class Call:
    """What goes to a worker."""

    provider: str
    path: str
    body: bytes
    headers: Mapping[str, str]


Relayed = tuple[web.StreamResponse, Settled | None]
"""An answer, and what the worker said of its cost, if it did."""


async def relay(request: web.Request, workers: Workers, call: Call, started: float) -> Relayed:
    """Relay a worker's answer. Raises Lost, ClientLeft, and NoSupplier where no worker takes the request."""
    stream: Stream | None = None
    try:
        async with (
            asyncio.timeout(LONGEST_S),
            workers.post(call.provider, call.path, call.body, call.headers) as answer,
        ):
            if answer.media_type != "text/event-stream":
                return await _whole(answer, started)
            stream = Stream()
            await stream.begin(request)
            return stream.response, await _streamed(answer, stream)
    except (WorkerGone, TimeoutError) as error:
        if stream is not None and stream.waiting:  # it is the client who took no more until the time was up
            raise ClientLeft from error
        log.warning("worker_lost", provider=call.provider, reason=str(error) or type(error).__name__)
        raise Lost(stream) from error


async def _whole(answer: Reply, started: float) -> Relayed:
    body = await answer.read()
    headers = {name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers}
    settled = _settled(answer)
    if settled is not None:
        upstream_ms = float(answer.headers.get("x-opentoken-upstream-ms", 0))
        headers["x-opentoken-cost"] = usd(settled.cost_pico)
        headers["x-opentoken-overhead-ms"] = f"{max(0.0, (monotonic() - started) * 1000 - upstream_ms):.2f}"
    return web.Response(body=body, status=answer.status, headers=headers), settled


def _settled(answer: Reply) -> Settled | None:
    """What the answer cost; None for a refusal, which costs nothing. Raises WorkerGone for one without its mark."""
    cost = answer.headers.get("x-opentoken-settled", "")
    if answer.status == 200 and not cost.isdigit():
        raise WorkerGone("the answer came without its settled mark")
    return Settled(int(cost), int(answer.headers.get("x-opentoken-tokens", 0))) if cost else None


async def _streamed(answer: Reply, stream: Stream) -> Settled | None:
    ending = Ending()
    try:
        while chunk := await answer.readany():
            if clients := ending.feed(chunk):
                passing("edge.mid_answer")
                await stream.write(clients)
    except WorkerGone:
        if not ending.complete:  # else the usage is durable: it was before the end was sent
            raise
    if not ending.complete:
        raise WorkerGone("the stream ended without its end")
    await stream.end()
    return ending.settled


async def lost_answer(lost: Lost) -> web.StreamResponse:
    """What the client is told: a status where nothing was sent yet, else an event inside the stream."""
    error: ApiError = WorkerLost()
    if lost.stream is None:
        raise error from lost
    try:
        async with asyncio.timeout(LAST_WORDS_S):
            await lost.stream.write(b"\n\ndata: " + orjson.dumps(error.body()) + b"\n\n" + DONE)
            await lost.stream.end()
    except TimeoutError:
        raise ClientLeft from lost
    return lost.stream.response
