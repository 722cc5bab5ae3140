"""What people look through: the log of administrators' calls, and usage that was set aside instead of being booked.

Lists are in the order in which their rows came; a cursor is the id, or digest, of the last row that was shown.
"""

from typing import Any

import orjson
from aiohttp import web
from sqlalchemy import Connection, Engine, Select, Table, func, select

from services.billing.batch import json_of_columns
from services.billing.bodies import LogQuery, PageQuery, PeriodQuery
from services.billing.books import bad_cursor, listing
from services.billing.database import Row, Threads, reading, row, rows
from services.billing.tables import admin_log, conflict, quarantine, usage_record
from shared.bodies import parse
from shared.errors import NotFound
from shared.events import utc_text
from shared.http import json_response

LISTED_BODY_BYTES = 1_000  # of each body in a list: enough to tell what it is, and a page stays below a megabyte or two
IDS = {admin_log: "id", conflict: "digest", quarantine: "digest"}


class Review:
    """Handlers; who may call them is decided where they are routed."""

    def __init__(self, engine: Engine, threads: Threads) -> None:
        self._engine, self._threads = engine, threads

    async def log(self, request: web.Request) -> web.Response:
        """GET /admin/log."""
        query = parse(LogQuery, request.query)
        wanted = select(admin_log)
        if query.workspace_id is not None:
            wanted = wanted.where(admin_log.c.workspace_id == query.workspace_id)
        return json_response(await self._threads.read(self._page, admin_log, wanted, query))

    async def quarantine(self, request: web.Request) -> web.Response:
        """GET /admin/quarantine."""
        return await self._listed(request, quarantine)

    async def conflicts(self, request: web.Request) -> web.Response:
        """GET /admin/conflicts."""
        return await self._listed(request, conflict)

    async def quarantined(self, request: web.Request) -> web.Response:
        """GET /admin/quarantine/{digest}."""
        return json_response(await self._threads.read(self._one, quarantine, request.match_info["digest"]))

    async def conflict(self, request: web.Request) -> web.Response:
        """GET /admin/conflicts/{digest}: with the record that stands, as far as they differ."""
        return json_response(await self._threads.read(self._one, conflict, request.match_info["digest"]))

    async def _listed(self, request: web.Request, table: Table) -> web.Response:
        query = parse(PeriodQuery, request.query)
        wanted = select(*_columns(table, func.substr(table.c.body, 1, LISTED_BODY_BYTES)))
        return json_response(await self._threads.read(self._page, table, wanted, query))

    def _page(self, table: Table, wanted: Select[Any], query: PeriodQuery) -> dict[str, Any]:
        at, name = table.c.recorded_at, IDS[table]
        wanted = wanted if query.start is None else wanted.where(at >= query.start)
        wanted = wanted if query.end is None else wanted.where(at < query.end)
        with reading(self._engine) as connection:
            wanted = _past(connection, table, wanted, query)
            found = rows(connection, wanted.order_by(at, table.c[name]).limit(query.limit + 1))
        return listing(found, query.limit, _json, name)

    def _one(self, table: Table, digest: str) -> dict[str, Any]:
        """One row with all of its body. Raises NotFound."""
        with reading(self._engine) as connection:
            kept = row(connection, select(*_columns(table, table.c.body)).where(table.c.digest == digest))
            if kept is None:
                raise NotFound(f'nothing with the digest "{digest}" was set aside here')
            return _json(kept) | ({"differs": _differences(connection, kept)} if table is conflict else {})


def _columns(table: Table, body: Any) -> list[Any]:
    """The table's columns, with this part of the body, and the size of all of it."""
    others = [column for column in table.c if column is not table.c.body]
    return [*others, body.label("body"), func.length(table.c.body).label("body_bytes")]


def _past(connection: Connection, table: Table, wanted: Select[Any], query: PageQuery) -> Select[Any]:
    """What comes after the row that the cursor names. Raises InvalidRequest."""
    if query.cursor is None:
        return wanted
    at, id_ = table.c.recorded_at, table.c[IDS[table]]
    last = connection.scalar(select(at).where(id_ == query.cursor))
    if last is None:
        raise bad_cursor()
    return wanted.where(at >= last, (at > last) | (id_ > query.cursor))


def _differences(connection: Connection, kept: Row) -> dict[str, Any]:
    """The columns in which what came is not what stands, which came first."""
    came = orjson.loads(kept["body"])
    first = row(connection, select(usage_record).where(usage_record.c.request_id == kept["request_id"]))
    assert first is not None, "a conflict is about a record that there is"
    stands = orjson.loads(json_of_columns({name: first[name] for name in came}))
    return {name: {"stands": stands[name], "came": came[name]} for name in came if stands[name] != came[name]}


def _json(found: Row) -> dict[str, Any]:
    json = {str(name): value for name, value in found.items()}  # SQLAlchemy's names are no plain str, as orjson wants
    json["recorded_at"] = utc_text(found["recorded_at"])
    if isinstance(found["body"], bytes):
        json["body"] = found["body"].decode("utf-8", "backslashreplace")
    return json
