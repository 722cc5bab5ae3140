"""The audit surface: read-only routes over the books, and the standing of a key for the edge."""

from aiohttp import web
from sqlalchemy import Engine

from services.billing.bodies import EntriesQuery, KeyDigest, PeriodQuery, ReceiptQuery, UsageQuery
from services.billing.books import Books, Page
from services.billing.database import Threads
from services.billing.standing import Standings
from services.billing.statement import Month, Statements
from shared.bodies import parse
from shared.http import json_response


class Audit:
    """Handlers; who may call them is decided where they are routed."""

    def __init__(self, engine: Engine, threads: Threads) -> None:
        self._books, self._standings, self._statements = Books(engine), Standings(engine), Statements(engine)
        self._threads = threads

    async def balance(self, request: web.Request) -> web.Response:
        """GET /v1/workspaces/{id}/balance."""
        return json_response(await self._threads.read(self._books.balance, request.match_info["id"]))

    async def usage(self, request: web.Request) -> web.Response:
        """GET /v1/workspaces/{id}/usage."""
        query = parse(UsageQuery, request.query)
        equal = {"model": query.model, "key_id": query.key_id}
        page = await self._threads.read(self._books.usage, request.match_info["id"], _page(query), **equal)
        return json_response(page)

    async def entries(self, request: web.Request) -> web.Response:
        """GET /v1/workspaces/{id}/entries."""
        query = parse(EntriesQuery, request.query)
        page = await self._threads.read(self._books.entries, request.match_info["id"], _page(query), query.contra)
        return json_response(page)

    async def receipt(self, request: web.Request) -> web.Response:
        """GET /v1/generations/{id}."""
        query = parse(ReceiptQuery, request.query)
        receipt = await self._threads.read(self._books.receipt, request.match_info["id"], query.workspace_id)
        return json_response(receipt)

    async def statement(self, request: web.Request) -> web.Response:
        """GET /v1/statements/{workspace}/{month}."""
        workspace_id, month = request.match_info["workspace"], Month.of(request.match_info["month"])
        return json_response(await self._threads.read(self._statements.of, workspace_id, month))

    async def standing(self, request: web.Request) -> web.Response:
        """POST /internal/standing."""
        body = parse(KeyDigest, await request.read())
        return json_response(await self._threads.read(self._standings.of, body.digest))


def _page(query: PeriodQuery) -> Page:
    return Page(query.limit, query.cursor, query.start, query.end)
