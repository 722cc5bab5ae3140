"""The host: an OpenAI-compatible HTTP server that does all I/O for a provider and settles every request.

An error before the first byte of an answer is an HTTP status; a later one is an event inside the stream. The usage
is durable before the client can have seen the end: before the body of a buffered answer, before the usage chunk
and `[DONE]` of a stream.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Literal

import structlog
from aiohttp import web

from services.workers import buffered, streamed
from services.workers.exchange import Exchange
from services.workers.provider import Provider, Supplier
from services.workers.settle import Asked, digest
from services.workers.upstream import Upstream, build_session
from shared import http
from shared.bodies import parse
from shared.bus import Bus
from shared.catalog import Catalog
from shared.drain import BREAK_OFF, DRAINING, UNDER_WAY, BreakOff
from shared.errors import InvalidRequest, NoSupplier
from shared.openai import MAX_BODY_BYTES, ChatRequest, EmbeddingsRequest
from shared.outbox import Outbox
from shared.spool import Spool

log = structlog.get_logger()

DEFAULT_DEADLINE_MS = 600_000  # as long as the official SDKs wait by default
SETTLE_S = 3.0  # a settlement waits a second for the broker, then for one write to the disk


@dataclass(frozen=True, slots=True)
class Host:
    """What all requests of a worker share."""

    upstream: Upstream
    catalog: Catalog
    internal_token: str
    outbox: Outbox
    running: dict[asyncio.Task[web.StreamResponse], Exchange] = field(default_factory=dict)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        http.require_bearer(request, self.internal_token)
        chat = parse(ChatRequest, await request.read())
        exchange = self._exchange(request, chat, "chat.completions", stream=bool(chat.stream))
        if chat.stream:
            return await self._attend(exchange, streamed.chat(self.upstream, exchange, chat, request))
        return await self._attend(exchange, buffered.chat(self.upstream, exchange, chat))

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/embeddings."""
        http.require_bearer(request, self.internal_token)
        wanted = parse(EmbeddingsRequest, await request.read())
        exchange = self._exchange(request, wanted, "embeddings", stream=False)
        return await self._attend(exchange, buffered.embeddings(self.upstream, exchange, wanted))

    def _exchange(
        self,
        request: web.Request,
        body: ChatRequest | EmbeddingsRequest,
        endpoint: Literal["chat.completions", "embeddings"],
        *,
        stream: bool,
    ) -> Exchange:
        """The request as the edge describes it. Refused while its usage could not be made durable."""
        self.outbox.check()
        headers = request.headers
        try:
            request[http.REQUEST_ID] = headers["x-request-id"]
            deadline_ms = int(headers.get("x-opentoken-deadline-ms", DEFAULT_DEADLINE_MS))
            asked = Asked(
                request_id=headers["x-request-id"],
                workspace_id=headers["x-opentoken-workspace"],
                key_id=headers["x-opentoken-key"],
                lease_id=headers.get("x-opentoken-lease"),
                model=self.catalog[body.model],
                endpoint=endpoint,
                stream=stream,
                user_digest=digest(self.internal_token, headers["x-opentoken-workspace"], body.user),
            )
        except (KeyError, ValueError) as error:
            raise InvalidRequest(f"not a request of the edge: {error}") from None
        on_disconnect, draining = self.upstream.provider.on_disconnect, request.app[DRAINING]
        return Exchange(asked, self.outbox, on_disconnect, deadline_ms / 1000, draining)

    async def _attend(self, exchange: Exchange, work: Coroutine[None, None, web.StreamResponse]) -> web.StreamResponse:
        """Run the work to its settlement, whether or not the client stays."""
        task = asyncio.create_task(work)
        self.running[task] = exchange
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            exchange.client_left()
            raise

    async def break_off(self, request: web.Request) -> web.Response:
        """POST /internal/break-off: settle these now, as a failure of ours; what is not running any more has ended."""
        http.require_bearer(request, self.internal_token)
        wanted = set(parse(BreakOff, await request.read()).request_ids)
        for exchange in self.running.values():
            if exchange.asked.request_id in wanted:
                exchange.break_off()
        return http.json_response({})

    async def stop(self) -> None:
        """The grace is over: what still runs is settled now, and told so to whoever still listens."""
        for exchange in self.running.values():
            exchange.break_off()
        if self.running:
            log.warning("answers_broken_off", count=len(self.running))
            await asyncio.wait(self.running, timeout=SETTLE_S)

    def _done(self, task: asyncio.Task[web.StreamResponse]) -> None:
        del self.running[task]
        if not task.cancelled():
            task.exception()  # it was settled; where the client has left, nobody else retrieves it


HOST: web.AppKey[Host] = web.AppKey("host", Host)


async def _chat(request: web.Request) -> web.StreamResponse:
    return await request.app[HOST].chat(request)


async def _embeddings(request: web.Request) -> web.StreamResponse:
    return await request.app[HOST].embeddings(request)


async def _break_off(request: web.Request) -> web.StreamResponse:
    return await request.app[HOST].break_off(request)


def build_app(
    provider: Provider,
    suppliers: list[Supplier],
    catalog: Catalog,
    internal_token: str,
    bus: Callable[[], Bus],
    spool: Spool | None = None,
) -> web.Application:
    """A worker for one provider. `bus` is called once the loop runs; what the app opens it also closes."""

    async def usage() -> None:
        app[HOST].outbox.ready()

    async def credentials() -> None:
        if not suppliers:
            raise NoSupplier(f"no credentials are configured for {provider.name}")

    app = http.build_app(
        f"worker-{provider.name}", {"usage": usage, "credentials": credentials}, max_body_bytes=MAX_BODY_BYTES
    )

    async def resources(app: web.Application) -> AsyncIterator[None]:
        if spool is not None:
            await spool.open()
        outbox = Outbox(bus(), spool)
        async with build_session() as session:
            app[HOST] = host = Host(Upstream(provider, suppliers, session), catalog, internal_token, outbox)
            app[UNDER_WAY] = host.running  # answers that nobody waits for still settle
            yield
        await outbox.close()

    async def stop(app: web.Application) -> None:
        await app[HOST].stop()

    app.cleanup_ctx.append(resources)
    app.on_shutdown.append(stop)
    app.router.add_post("/v1/chat/completions", _chat)
    app.router.add_post("/v1/embeddings", _embeddings)
    app.router.add_post(BREAK_OFF, _break_off)
    return app
