"""The audit surface: read-only routes over the books."""

from collections.abc import Iterator

from aiohttp import web
from sqlalchemy import Engine

from services.billing import export
from services.billing.bodies import (
    CheckpointsQuery,
    ConsistencyQuery,
    EntriesQuery,
    ExportQuery,
    InclusionQuery,
    PeriodQuery,
    ReceiptQuery,
    ShardQuery,
    SizeOf,
    TableQuery,
    UsageQuery,
)
from services.billing.books import Books, Page, listing
from services.billing.database import Threads
from services.billing.export import Selection
from services.billing.leaves import Kind
from services.billing.proofs import Proofs, checkpoint_json
from services.billing.statement import Month, Statements
from shared.bodies import parse
from shared.http import json_response


class Audit:
    """Handlers; who may call them is decided where they are routed."""

    def __init__(self, engine: Engine, threads: Threads) -> None:
        self._books, self._statements = Books(engine), Statements(engine)
        self._proofs = Proofs(engine)
        self._engine, self._threads = engine, threads

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

    async def checkpoints(self, request: web.Request) -> web.Response:
        """GET /v1/checkpoints."""
        query = parse(CheckpointsQuery, request.query)
        found = await self._threads.read(self._proofs.checkpoints, query.shard, query.cursor, query.limit + 1)
        return json_response(listing(found, query.limit, checkpoint_json, "tree_size"))

    async def checkpoint(self, request: web.Request) -> web.Response:
        """GET /v1/checkpoints/{size}, where `latest` is a size, too."""
        query, size = parse(ShardQuery, request.query), request.match_info["size"]
        named = None if size == "latest" else parse(SizeOf, {"size": size}).size
        return json_response(await self._threads.read(self._proofs.checkpoint, query.shard, named))

    async def inclusion(self, request: web.Request) -> web.Response:
        """GET /v1/proofs/inclusion."""
        query = parse(InclusionQuery, request.query)
        proof = await self._threads.read(self._proofs.inclusion, query.shard, query.leaf_index, query.tree_size)
        return json_response(proof)

    async def consistency(self, request: web.Request) -> web.Response:
        """GET /v1/proofs/consistency."""
        query = parse(ConsistencyQuery, request.query)
        return json_response(await self._threads.read(self._proofs.consistency, query.shard, query.first, query.second))

    async def export_jsonl(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/export.jsonl."""
        query = parse(ExportQuery, request.query)
        return await self._streamed(request, export.jsonl(self._engine, _selection(query)), "application/jsonl")

    async def export_csv(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/export.csv."""
        query = parse(TableQuery, request.query)
        kind: Kind = "usage/1" if query.kind == "usage" else "entry/1"
        return await self._streamed(request, export.table(self._engine, kind, _selection(query)), "text/csv")

    async def _streamed(self, request: web.Request, pieces: Iterator[bytes], media: str) -> web.StreamResponse:
        """The pieces as they are read, each on a reading thread; no piece is read before the last one was taken."""
        response = web.StreamResponse(headers={"Content-Type": media})
        piece = await self._threads.read(next, pieces, None)  # what fails before the first piece is still a status
        await response.prepare(request)
        while piece is not None:
            await response.write(piece)
            piece = await self._threads.read(next, pieces, None)
        await response.write_eof()
        return response


def _selection(query: ExportQuery) -> Selection:
    return Selection(query.workspace_id, query.start, query.end)


def _page(query: PeriodQuery) -> Page:
    return Page(query.limit, query.cursor, query.start, query.end)
