"""The log of what administrators call: append-only, and written before the call is carried out, so none is missing.

There is one admin token; who holds it may say in `x-opentoken-actor` which person is calling.
"""

import unicodedata
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import orjson
from aiohttp import web
from sqlalchemy import Engine, insert, select

from services.billing.accounts import without_secrets
from services.billing.database import Row, Threads, writing
from services.billing.tables import admin_log, api_key
from shared.errors import InvalidRequest
from shared.ids import new_id

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ACTOR = "admin"
ACTOR_HEADER = "x-opentoken-actor"
MAX_ACTOR_CHARS = 64  # a person's name or address; it stands in every entry that the person makes
SECRET_MEMBERS = frozenset({"secret"})  # a key's text is kept nowhere
MAX_BODY_CHARS = 10_000  # longer than any call that is carried out


def logged(handler: Handler, engine: Engine, threads: Threads) -> Handler:
    """The handler, after a row in the log. A call that cannot be logged is not carried out."""

    async def noted(request: web.Request) -> web.StreamResponse:
        call = {
            "id": new_id(),
            "actor": actor_of(request),
            "method": request.method,
            "path": without_secrets(request.raw_path),
            "body": without_secrets(shown(await request.read())),
            "workspace_id": request.match_info.get("id"),
            "recorded_at": datetime.now(UTC),
        }
        await threads.write(_insert, engine, call, request.match_info.get("key_id"))
        return await handler(request)

    return noted


def actor_of(request: web.Request) -> str:
    """Who calls: `admin`, or `admin:<name>`, as it stands in the log and in entries. Raises InvalidRequest."""
    name = request.headers.get(ACTOR_HEADER)
    if name is None:
        return ACTOR
    if not 0 < len(name) <= MAX_ACTOR_CHARS or not name.isprintable():
        raise InvalidRequest(f"{ACTOR_HEADER}: use 1 to {MAX_ACTOR_CHARS} printable characters", param=ACTOR_HEADER)
    return f"{ACTOR}:{unicodedata.normalize('NFC', name)}"  # the form in which it has a leaf


def shown(body: bytes) -> str:
    """A body as it may be kept: without secrets; nothing of what is no JSON object, and is refused anyway."""
    try:
        members = orjson.loads(body)
        if not isinstance(members, dict):
            return ""
        return orjson.dumps(members | dict.fromkeys(SECRET_MEMBERS & members.keys(), "…")).decode()[:MAX_BODY_CHARS]
    except (orjson.JSONDecodeError, TypeError):  # no JSON, or nested deeper than can be written
        return ""


def _insert(engine: Engine, call: Row, key_id: str | None) -> None:
    with writing(engine) as connection:
        if key_id is not None:
            whose = select(api_key.c.workspace_id).where(api_key.c.id == key_id)
            call = {**call, "workspace_id": connection.scalar(whose)}
        connection.execute(insert(admin_log), call)
