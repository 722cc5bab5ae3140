"""Answers that leave as they come: the first deltas decide the HTTP status, the usage is durable before the end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from time import monotonic

from aiohttp import web

from services.workers import replies
from services.workers.exchange import Exchange
from services.workers.provider import Delta, Failed, Supplier, Usage
from services.workers.reader import Reader, Translation
from services.workers.settle import estimated, trusted
from services.workers.upstream import Calls, Upstream, lower, reply_of
from shared.errors import ApiError, BillingUnavailable, UpstreamError, UpstreamTimeout
from shared.failpoints import passing
from shared.money import Tokens
from shared.openai import ChatRequest

HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
SILENCE_S = 15.0  # common proxies give a silent connection up after 30 to 60 s


async def chat(
    upstream: Upstream, exchange: Exchange, request: ChatRequest, http_request: web.Request
) -> web.StreamResponse:
    """A stream of chunks. Raises ApiError for what fails before anything was sent."""
    client = Client(http_request, exchange)
    reader: Reader | None = None
    try:
        async with exchange.bounded(), AsyncExitStack() as open_call, client.kept_alive():
            reader, deltas = await _begin(upstream, exchange, request, open_call)
            chunks = _chunks(exchange)
            client.hold(chunks.role())
            while deltas is not None:
                await client.write(chunks.deltas(deltas))
                passing("worker.after_first_byte")
                deltas = await reader.read()
    except (ApiError, Failed, TimeoutError) as error:
        if reader is not None:
            return await client.end(await _interrupted(upstream, exchange, request, reader.translation, error))
        told = await exchange.failed(error, estimated(request, 0, Usage(Tokens())))
        if not client.begun:
            raise told from None
        return await client.end(replies.interruption(told) + replies.settled_mark(0))
    read, finish = reader.translation, reader.translation.stream.finish
    assert finish is not None, "a reader ends without an error only after a finish"
    exchange.trail.upstream_id = read.stream.upstream_id
    usage = trusted(request, read.text_bytes, read.usage)
    try:
        cost = await exchange.finished(usage, finish)
    except BillingUnavailable as error:  # what cannot be billed has no end that a client could take for one
        return await client.end(replies.interruption(error))
    return await client.end(chunks.end(finish, usage.tokens, cost))


def _chunks(exchange: Exchange) -> replies.Chunks:
    asked = exchange.asked
    created = int(asked.started_at.timestamp())
    return replies.Chunks(replies.Head(asked.request_id, created, asked.model.id, exchange.trail.service_tier))


async def _begin(
    upstream: Upstream, exchange: Exchange, request: ChatRequest, open_call: AsyncExitStack
) -> tuple[Reader, list[Delta] | None]:
    """Pull the first deltas, so that whatever fails before them is a status, or another supplier's to answer."""
    provider, calls = upstream.provider, Calls(upstream.session, exchange.trail)

    async def attempt(supplier: Supplier) -> tuple[Reader, list[Delta] | None]:
        call = upstream.call(request, exchange.asked, supplier)
        exchange.trail.service_tier = call.service_tier
        sent = await calls.planned(provider.plan(call), supplier)
        async with AsyncExitStack() as attempted:
            response = await attempted.enter_async_context(calls.begun(sent, supplier))
            if response.status != 200:
                raise upstream.failure(supplier, sent, await reply_of(response))
            reader = Reader(provider.stream(request, sent, lower(response)), response.content)
            deltas = await reader.read()
            open_call.push_async_exit(attempted.pop_all())
            return reader, deltas

    begun = await upstream.first_to_begin(request, attempt)
    exchange.trail.first_byte = monotonic()
    return begun


async def _interrupted(
    upstream: Upstream, exchange: Exchange, request: ChatRequest, read: Translation, error: Exception
) -> bytes:
    """Settle an answer that broke after its first byte, and return its last bytes.

    Broken by the provider, or by this process's end, it is on record and waived; broken off by the client, or not
    taken by it until the time was up, it is billed as far as it came.
    """
    exchange.trail.upstream_id, usage = read.stream.upstream_id, read.usage
    told = _told(upstream, exchange, error)
    if isinstance(error, TimeoutError) and exchange.client_at_fault:
        cost = await exchange.settle("client_disconnected", estimated(request, read.text_bytes, usage))
    else:
        cost = await exchange.settle("upstream_interrupted", usage)
    return replies.interruption(told) + replies.settled_mark(cost)


def _told(upstream: Upstream, exchange: Exchange, error: Exception) -> ApiError:
    """What the client reads inside a stream that broke."""
    if isinstance(error, TimeoutError):
        return exchange.overdue("stream interrupted: the deadline has passed")
    words = upstream.scrub(error.words if isinstance(error, Failed) else str(error))
    if isinstance(error, Failed) and isinstance(error.error, UpstreamTimeout):
        return UpstreamTimeout(f"stream interrupted: {words}")
    return UpstreamError.interrupted(words)


class Client:
    """The client's end of a stream. Once the client has left, writing does nothing."""

    def __init__(self, request: web.Request, exchange: Exchange) -> None:
        self.begun = False
        self._request, self._exchange = request, exchange
        self._response = web.StreamResponse(headers=HEADERS)
        self._held = b""
        self._wrote = monotonic()

    def hold(self, data: bytes) -> None:
        """Keep these bytes for the next write, so that both leave together."""
        self._held += data

    async def write(self, data: bytes) -> None:
        """Write, waiting for a reader that is slower than the provider. The first write commits the status."""
        data, self._held = self._held + data, b""
        if data and not self._exchange.client_gone:
            self._wrote = monotonic()
            self._exchange.client_waiting = True
            with self._leaving():
                if not self.begun:
                    self.begun = True
                    await self._response.prepare(self._request)
                await self._response.write(data)
            self._exchange.client_waiting = False

    async def end(self, data: bytes) -> web.StreamResponse:
        """Write the last bytes and close the stream."""
        await self.write(data)
        if not self._exchange.client_gone:
            with self._leaving():
                await self._response.write_eof()
        return self._response

    @contextlib.asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        """Break every silence in the block with a comment; the first one commits the status, so that proxies wait."""
        timer = asyncio.create_task(self._keep_alive())
        try:
            yield
        finally:
            timer.cancel()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(SILENCE_S - (monotonic() - self._wrote))
            if monotonic() - self._wrote >= SILENCE_S:
                await self.write(replies.KEEP_ALIVE)

    @contextlib.contextmanager
    def _leaving(self) -> Iterator[None]:
        try:
            yield
        except ConnectionResetError:
            self._exchange.client_left()
