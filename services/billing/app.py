"""The billing service, put together: the one place that knows all of its parts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

from aiohttp import web
from sqlalchemy import Engine

from services.billing import migrations, openapi
from services.billing.accounts import Accounts, Announce
from services.billing.admin import Admin
from services.billing.admin_log import Handler, logged
from services.billing.announcer import Announcer
from services.billing.audit import Audit
from services.billing.bootstrap import bootstrap
from services.billing.claims import Claims
from services.billing.consumer import consume, handler
from services.billing.database import Threads, connect, ping
from services.billing.ledger import Ledger
from services.billing.lender import Lender
from services.billing.partitions import keep_ahead
from services.billing.review import Review
from services.billing.settings import BillingSettings
from services.billing.signer import keep_signing, make_signer
from shared import http
from shared.bus import AccountBus, BusError
from shared.errors import NotFound


def build_app(settings: BillingSettings, bus: AccountBus, announce: Announce | None = None) -> web.Application:
    """The service on `bus`, which stays its caller's to close. Starting raises SchemaError on an unfit database.

    `announce` is called with what each administrator's call has changed; by default it tells all edges, on the bus.
    Raises NoteError where the signing key cannot be read.
    """
    engine, threads = connect(settings.database_url.get_secret_value()), Threads()
    signer = make_signer(engine, settings)
    ledger = Ledger(engine, settings.ledger_shards, signer.grown) if signer else Ledger(engine, settings.ledger_shards)
    accounts, claims = Accounts(engine), Claims(engine, threads)
    announcer = Announcer(bus)
    lender = Lender(engine, threads, announcer)

    async def resources(_: web.Application) -> AsyncIterator[None]:
        try:
            await _start(engine, threads, settings, accounts, ledger)
            shards = range(settings.ledger_shards)
            post = handler(ledger, threads)
            tasks = [asyncio.create_task(consume(bus, shard, post)) for shard in shards]
            tasks.append(asyncio.create_task(keep_ahead(engine, threads)))
            tasks.append(asyncio.create_task(claims.keep_purging()))
            tasks.append(asyncio.create_task(lender.keep_sweeping()))
            if signer is not None:
                tasks.append(asyncio.create_task(keep_signing(signer, threads)))
            yield
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await announcer.close()
        finally:
            threads.close()
            engine.dispose()

    async def database() -> None:
        await threads.prompt(ping, engine)

    async def consumer() -> None:
        if not bus.connected:
            raise BusError("the bus is away")

    app = http.build_app("billing", {"database": database, "consumer": consumer})
    app.cleanup_ctx.append(resources)
    app.add_routes(_claim_routes(settings, claims))
    noted = partial(logged, engine=engine, threads=threads)
    admin = Admin(accounts, ledger, threads, announcer.announce if announce is None else announce)
    app.add_routes(_routes(settings, Audit(engine, threads), lender))
    app.add_routes(_admin_routes(settings, admin, Review(engine, threads), noted))
    return app


async def _start(
    engine: Engine, threads: Threads, settings: BillingSettings, accounts: Accounts, ledger: Ledger
) -> None:
    await threads.write(migrations.check, engine)
    await threads.write(ledger.check_shards)
    if settings.bootstrap_key is not None:
        await threads.write(bootstrap, accounts, ledger, settings.bootstrap_key.get_secret_value())


def _routes(settings: BillingSettings, audit: Audit, lender: Lender) -> list[web.RouteDef]:
    internal, admins = settings.internal_token.get_secret_value(), settings.admin_token.get_secret_value()
    readers = (settings.auditor_token.get_secret_value(), admins, internal)
    return [
        web.get("/v1/workspaces/{id}/balance", _for(audit.balance, *readers)),
        web.get("/v1/workspaces/{id}/usage", _for(audit.usage, *readers)),
        web.get("/v1/workspaces/{id}/entries", _for(audit.entries, *readers)),
        web.get("/v1/generations/{id}", _for(audit.receipt, *readers)),
        web.get("/v1/statements/{workspace}/{month}", _for(audit.statement, *readers)),
        web.get("/v1/export.jsonl", _for(audit.export_jsonl, *readers)),
        web.get("/v1/export.csv", _for(audit.export_csv, *readers)),
        web.get("/v1/checkpoints", _for(audit.checkpoints, *readers)),
        web.get("/v1/checkpoints/{size}", _for(audit.checkpoint, *readers)),
        web.get("/v1/proofs/inclusion", _for(audit.inclusion, *readers)),
        web.get("/v1/proofs/consistency", _for(audit.consistency, *readers)),
        web.get("/openapi.json", _openapi()),
        web.post("/internal/standing", _for(lender.standing, internal)),
        web.post("/internal/leases", _for(lender.leases, internal)),
    ]


def _admin_routes(
    settings: BillingSettings, admin: Admin, review: Review, logged: Callable[[Handler], Handler]
) -> list[web.RouteDef]:
    admins = settings.admin_token.get_secret_value()
    readers = (settings.auditor_token.get_secret_value(), admins)

    def own(handler: Handler) -> Handler:
        return _for(logged(handler), admins)

    return [
        web.post("/admin/workspaces", own(admin.create_workspace)),
        web.get("/admin/workspaces", own(admin.workspaces)),
        web.get("/admin/workspaces/{id}", own(admin.workspace)),
        web.patch("/admin/workspaces/{id}", own(admin.change_workspace)),
        web.post("/admin/workspaces/{id}/keys", own(admin.create_key)),
        web.get("/admin/workspaces/{id}/keys", own(admin.keys)),
        web.get("/admin/keys/{key_id}", own(admin.key)),
        web.patch("/admin/keys/{key_id}", own(admin.change_key)),
        web.delete("/admin/keys/{key_id}", own(admin.revoke_key)),
        web.post("/admin/workspaces/{id}/credits", own(admin.credit)),
        web.post("/admin/workspaces/{id}/refunds", own(admin.refund)),
        web.post("/admin/workspaces/{id}/adjustments", own(admin.adjust)),
        # What is read here is kept for being read, so reading it is no call to keep.
        web.get("/admin/log", _for(review.log, *readers)),
        web.get("/admin/quarantine", _for(review.quarantine, *readers)),
        web.get("/admin/quarantine/{digest}", _for(review.quarantined, *readers)),
        web.get("/admin/conflicts", _for(review.conflicts, *readers)),
        web.get("/admin/conflicts/{digest}", _for(review.conflict, *readers)),
    ]


def _openapi() -> Handler:
    document = openapi.document()

    async def openapi_json(_: web.Request) -> web.Response:
        return http.json_response(document)

    return openapi_json


def _claim_routes(settings: BillingSettings, claims: Claims) -> list[web.RouteDef]:
    internal = settings.internal_token.get_secret_value()
    return [
        web.post("/internal/claims", _for(claims.claim, internal)),
        web.put("/internal/claims/{id}/answer", _for(claims.keep, internal)),
        web.delete("/internal/claims/{id}/answer", _for(claims.keep_none, internal)),
        web.delete("/internal/claims/{id}", _for(claims.release, internal)),
    ]


def _for(handler: Handler, *tokens: str) -> Handler:
    """The handler, for bearers of one of the tokens."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        http.require_bearer(request, *tokens)
        if any("\0" in value for value in request.match_info.values()):  # PostgreSQL takes no NUL, and no id has one
            raise NotFound(f"no such route: {request.method} {request.path}")
        return await handler(request)

    return guarded
