"""The log of what administrators call: append-only, and written before the call is carried out, so none is missing."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import orjson
from aiohttp import web
from sqlalchemy import Engine, insert

from services.billing.database import Threads, writing
from services.billing.tables import admin_log
from shared.ids import new_id

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ACTOR = "admin"  # there is one admin token
SECRET_MEMBERS = frozenset({"secret"})  # a key's text is kept nowhere
MAX_BODY_CHARS = 10_000  # longer than any call that is carried out


def logged(handler: Handler, engine: Engine, threads: Threads) -> Handler:
    """The handler, after a row in the log. A call that cannot be logged is not carried out."""

    async def noted(request: web.Request) -> web.StreamResponse:
        call = {
            "id": new_id(),
            "actor": ACTOR,
            "method": request.method,
            "path": request.raw_path,
            "body": shown(await request.read()),
            "recorded_at": datetime.now(UTC),
        }
        await threads.write(_insert, engine, call)
        return await handler(request)

    return noted


def shown(body: bytes) -> str:
    """A body as it may be kept: without secrets; nothing of what is no JSON object, and is refused anyway."""
    try:
        members = orjson.loads(body)
        if not isinstance(members, dict):
            return ""
        return orjson.dumps(members | dict.fromkeys(SECRET_MEMBERS & members.keys(), "…")).decode()[:MAX_BODY_CHARS]
    except (orjson.JSONDecodeError, TypeError):  # no JSON, or nested deeper than can be written
        return ""


def _insert(engine: Engine, call: dict[str, object]) -> None:
    with writing(engine) as connection:
        connection.execute(insert(admin_log), call)
