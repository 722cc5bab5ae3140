"""The edge's composition root."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial

from aiohttp import web

from services.edge import openapi
from services.edge.accounts import Accounts
from services.edge.billing import Billing, build_session
from services.edge.credit import Credit
from services.edge.handlers import Edge
from services.edge.idempotency import Idempotency
from services.edge.rates import Rates, stamp
from services.edge.usual import MOST, Usual
from services.edge.workers import Workers
from shared import http
from shared.bus import AccountBus
from shared.catalog import Catalog
from shared.drain import UNDER_WAY
from shared.openai import MAX_BODY_BYTES
from shared.outbox import Outbox
from shared.spool import Spool

EDGE: web.AppKey[Edge] = web.AppKey("edge", Edge)
Route = Callable[[Edge, web.Request], Awaitable[web.StreamResponse]]

ROUTES: tuple[tuple[str, str, Route], ...] = (
    ("POST", "/v1/chat/completions", Edge.chat),
    ("POST", "/v1/embeddings", Edge.embeddings),
    ("GET", "/v1/models", Edge.models),
    ("GET", "/v1/models/{id:.+}", Edge.model),
    ("GET", "/v1/generations/{id}", Edge.generation),
    ("GET", "/v1/credits", Edge.credits),
    ("GET", "/v1/key", Edge.key),
)


def build_app(
    catalog: Catalog,
    internal_token: str,
    worker_urls: Mapping[str, str | Sequence[str]],
    billing_url: str,
    bus: Callable[[], AccountBus],
    spool: Spool | None = None,
) -> web.Application:
    """The public API. `worker_urls` go by provider; `bus` is called once the loop runs; what it opens it closes."""

    async def billing() -> None:
        await app[EDGE].billing.ready()

    async def usage() -> None:
        app[EDGE].outbox.ready()

    async def worker(provider: str) -> None:
        await app[EDGE].workers.ready(provider)

    workers = {f"worker-{name}": partial(worker, name) for name in catalog.providers}
    app = http.build_app("edge", {"billing": billing, "usage": usage, **workers}, max_body_bytes=MAX_BODY_BYTES)

    async def resources(app: web.Application) -> AsyncIterator[None]:
        if spool is not None:
            await spool.open()
        facts = bus()
        outbox = Outbox(facts, spool)
        async with build_session() as session:
            to_billing = Billing(session, billing_url, internal_token)
            to_workers, credit = Workers(worker_urls), Credit(to_billing)
            once = Idempotency(to_billing)
            app[UNDER_WAY] = once.running  # answers that nobody waits for are still kept, lost ones put on record
            app[EDGE] = Edge(
                catalog, Accounts(to_billing), credit, to_billing, to_workers, outbox, once, Rates(), internal_token,
                once.running, lru_cache(MOST)(Usual),
            )  # fmt: skip
            watching = asyncio.create_task(facts.watch(app[EDGE]))
            yield
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await credit.close()
            to_workers.close()
        await outbox.close()

    app.cleanup_ctx.append(resources)
    app.on_shutdown.append(_stop)
    app.on_response_prepare.append(stamp)
    app.router.add_get("/openapi.json", _document())
    for method, path, route in ROUTES:
        app.router.add_route(method, path, _handler(route), expect_handler=http.expecting)
    return app


async def _stop(app: web.Application) -> None:
    await app[EDGE].stop()


def _document() -> http.Handler:
    schema = openapi.document()

    async def openapi_json(_: web.Request) -> web.Response:
        return http.json_response(schema)

    return openapi_json


def _handler(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await route(request.app[EDGE], request)

    return handler
