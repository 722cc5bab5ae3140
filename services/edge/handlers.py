"""The routes of the public API."""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import monotonic

import structlog
from aiohttp import web

from services.edge import rules
from services.edge.accounts import Accounts, Standing
from services.edge.billing import Billing
from services.edge.idempotency import Asked, Idempotency
from services.edge.lost import worker_lost
from services.edge.rates import BYTES_PER_TOKEN, HEADERS, Rates
from services.edge.relay import Call, Lost, Relayed, lost_answer, relay
from services.edge.workers import Workers
from shared import http
from shared.bodies import parse
from shared.catalog import Catalog
from shared.errors import BillingUnavailable, ModelNotFound, NotFound, RequestTooLarge
from shared.events import Encoded
from shared.ids import request_id_of
from shared.money import usd
from shared.openai import MAX_BODY_BYTES, ChatRequest, EmbeddingsRequest
from shared.spool import Outbox

log = structlog.get_logger()

DEADLINE_MS = "600000"  # as long as the official SDKs wait by default


@dataclass(frozen=True, slots=True)
class Edge:
    """What all requests share, and the routes."""

    catalog: Catalog
    accounts: Accounts
    billing: Billing
    workers: Workers
    outbox: Outbox
    idempotency: Idempotency
    rates: Rates
    internal_token: str

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        standing = await self._authenticated(request)
        body = await _body(request)
        chat = parse(ChatRequest, body)
        model = self.catalog[chat.model]
        rules.check_chat(chat, model)
        asked = Asked(request, standing, model, body, bool(chat.stream))
        return await self.idempotency.once(asked, partial(self._admitted, asked, chat.output_limit or 0))

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/embeddings."""
        standing = await self._authenticated(request)
        body = await _body(request)
        model = self.catalog[parse(EmbeddingsRequest, body).model]
        rules.check_embeddings(model)
        asked = Asked(request, standing, model, body, stream=False)
        return await self.idempotency.once(asked, partial(self._admitted, asked, 0))

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        await self._authenticated(request)
        return http.json_response({"object": "list", "data": [model.listing() for model in self.catalog]})

    async def model(self, request: web.Request) -> web.Response:
        """GET /v1/models/{id}, whose slash may come encoded; 404 here, where the id is the address."""
        await self._authenticated(request)
        try:
            return http.json_response(self.catalog[request.match_info["id"]].listing())
        except ModelNotFound as error:
            error.status = 404
            raise

    async def generation(self, request: web.Request) -> web.Response:
        """GET /v1/generations/{id}: the settled record of one of the caller's own requests."""
        standing = await self._authenticated(request)
        request_id = request_id_of(request.match_info["id"])
        if request_id is None:
            raise NotFound("a generation's id is a request id, with or without chatcmpl- before it")
        return http.json_response(await self.billing.generation(request_id, standing.workspace_id))

    async def credits(self, request: web.Request) -> web.Response:
        """GET /v1/credits: the workspace's balance, and what of it is held and free."""
        standing = await self._authenticated(request)
        balance = await self.billing.balance(standing.workspace_id)
        amount = balance["balance_usd"]
        return http.json_response(
            {
                "workspace_id": standing.workspace_id,
                "balance_usd": amount,
                "held_usd": "0",
                "available_usd": amount,
                "strict": standing.strict,
            }
        )

    async def key(self, request: web.Request) -> web.Response:
        """GET /v1/key: the calling key's limit, and its spend in the running window."""
        standing = await self._authenticated(request)
        limit, expires = standing.spend_limit_pico, standing.expires_at
        return http.json_response(
            {
                "key_id": standing.key_id,
                "label": standing.label,
                "expires_at": expires.isoformat() if expires else None,
                "spend_limit_usd": None if limit is None else usd(limit),
                "limit_reset": standing.limit_reset,
                "window_spend_usd": usd(standing.window_spend_pico),
                "window_resets_at": standing.window_resets_at,
            }
        )

    async def _authenticated(self, request: web.Request) -> Standing:
        standing = await self.accounts.standing(http.bearer(request))
        rules.check_key(standing, datetime.now(UTC))
        return standing

    async def _admitted(self, asked: Asked, output_limit: int) -> web.StreamResponse:
        rules.check_credit(asked.standing)
        estimate = len(asked.body) // BYTES_PER_TOKEN + min(output_limit, asked.model.max_output_tokens)
        admitted = self.rates.admit(asked.standing, estimate)
        asked.request[HEADERS] = admitted.headers
        answer, settled = await self._relayed(asked)
        admitted.settle(settled.tokens if settled else 0)
        return answer

    async def _relayed(self, asked: Asked) -> Relayed:
        started, standing = monotonic(), asked.standing
        headers = {
            "Authorization": f"Bearer {self.internal_token}",
            "Content-Type": "application/json",
            "x-request-id": asked.id,
            "x-opentoken-workspace": standing.workspace_id,
            "x-opentoken-key": standing.key_id,
            "x-opentoken-deadline-ms": DEADLINE_MS,
        }
        if trace := asked.request.headers.get("traceparent"):
            headers["traceparent"] = trace
        call = Call(asked.model.provider, asked.request.path, asked.body, headers)
        try:
            return await relay(asked.request, self.workers, call, started)
        except Lost as lost:
            event = worker_lost(asked.id, standing, asked.model, asked.request.path, stream=asked.stream)
            with contextlib.suppress(BillingUnavailable):  # it would have cost nothing; the client's answer is the same
                await self.outbox.put(Encoded.of(event, "edge"))
            return await lost_answer(lost), None


async def _body(request: web.Request) -> bytes:
    """The whole body; one that says it is too large is refused before it is read."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise RequestTooLarge(f"the request body is larger than {MAX_BODY_BYTES} bytes")
    return await request.read()
