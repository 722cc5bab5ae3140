"""The routes of the public API."""

import asyncio
import contextlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any

import structlog
from aiohttp import web

from services.edge import rules
from services.edge.accounts import Accounts, Standing, digest_of
from services.edge.billing import Billing
from services.edge.credit import Credit
from services.edge.estimate import chat_pico, embeddings_pico, output_pico
from services.edge.idempotency import SENT, Asked, Idempotency
from services.edge.leases import Wanted
from services.edge.lost import worker_lost
from services.edge.rates import BYTES_PER_TOKEN, HEADERS, Rates
from services.edge.relay import Call, Lost, Relayed, lost_answer, relay
from services.edge.usual import Usuals
from services.edge.workers import Workers
from shared import http
from shared.bodies import parse
from shared.catalog import Catalog
from shared.changes import AccountChanged
from shared.errors import (
    BillingUnavailable,
    InvalidKey,
    ModelNotFound,
    NoSupplier,
    NotFound,
    RequestTooLarge,
)
from shared.events import Encoded
from shared.failpoints import passing
from shared.ids import request_id_of
from shared.money import usd
from shared.openai import MAX_BODY_BYTES, ChatRequest, EmbeddingsRequest
from shared.outbox import Outbox

log = structlog.get_logger()

DEADLINE_MS = "600000"  # as long as the official SDKs wait by default


@dataclass(frozen=True, slots=True)
class Edge:
    """What all requests share, and the routes."""

    catalog: Catalog
    accounts: Accounts
    credit: Credit
    billing: Billing
    workers: Workers
    outbox: Outbox
    idempotency: Idempotency
    rates: Rates
    internal_token: str
    under_way: set[asyncio.Task[Any]]
    usual: Usuals

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        standing = await self._authenticated(request)
        body = await _body(request)
        chat = parse(ChatRequest, body)
        model = self.catalog[chat.model]
        rules.check_chat(chat, model)
        asked = Asked(request, standing, model, body, bool(chat.stream))
        wanted = _wanted(asked, chat_pico(chat, model, len(body), strict=standing.strict))
        if not standing.strict and chat.output_limit is None:
            usual = self.usual(standing.workspace_id, model.id)
            wanted = replace(wanted, usual=usual, output_pico=output_pico(chat, model))
        return await self.idempotency.once(asked, partial(self._admitted, asked, wanted, chat.output_limit or 0))

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/embeddings."""
        standing = await self._authenticated(request)
        body = await _body(request)
        model = self.catalog[parse(EmbeddingsRequest, body).model]
        rules.check_embeddings(model)
        asked = Asked(request, standing, model, body, stream=False)
        wanted = _wanted(asked, embeddings_pico(model, len(body), strict=standing.strict))
        return await self.idempotency.once(asked, partial(self._admitted, asked, wanted, 0))

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
        """GET /v1/credits: the workspace's balance, and what of it is held and free.

        Lent is not held: what this edge has in hand is free. What others have in hand it cannot know.
        """
        now = await self._now(request)
        balance_pico = int(now["balance_pico"])
        lent_pico = balance_pico - int(now["available_pico"])
        held_pico = max(0, lent_pico - self.credit.left_pico(now["workspace_id"]))
        return http.json_response(
            {
                "workspace_id": now["workspace_id"],
                "balance_usd": usd(balance_pico),
                "held_usd": usd(held_pico),
                "available_usd": usd(balance_pico - held_pico),
                "strict": now["strict"],
            }
        )

    async def key(self, request: web.Request) -> web.Response:
        """GET /v1/key: the calling key's limit, and its spend in the running window, as billing sees it now."""
        now = await self._now(request)
        limit_pico = now["spend_limit_pico"]
        return http.json_response(
            {
                "key_id": now["key_id"],
                "label": now["label"],
                "expires_at": now["expires_at"],
                "spend_limit_usd": None if limit_pico is None else usd(int(limit_pico)),
                "limit_reset": now["limit_reset"],
                "window_spend_usd": usd(int(now["window_spend_pico"])),
                "window_resets_at": now["window_resets_at"],
            }
        )

    async def _now(self, request: web.Request) -> dict[str, Any]:
        """How the caller's account stands on the books at this moment. Raises InvalidKey, BillingUnavailable."""
        await self._authenticated(request)
        now = await self.billing.standing(digest_of(http.bearer(request)))
        if now is None:
            raise InvalidKey
        return now

    async def stop(self) -> None:
        """The grace is over: what still runs ends with an error, and costs nothing."""
        await self.workers.break_off({"Authorization": f"Bearer {self.internal_token}"})

    def began(self) -> None:
        """Changes of accounts are announced from now on; called by the bus, as the two below are."""
        self.accounts.began()
        self.credit.began()

    def ended(self) -> None:
        """Changes may be missed."""
        self.accounts.ended()

    def changed(self, change: AccountChanged) -> None:
        """A key, a limit or a credit is no longer as remembered."""
        self.accounts.changed(change)
        self.credit.changed(change)

    async def _authenticated(self, request: web.Request) -> Standing:
        standing = await self.accounts.standing(http.bearer(request))
        rules.check_key(standing, datetime.now(UTC))
        return standing

    async def _admitted(self, asked: Asked, wanted: Wanted, output_limit: int) -> web.StreamResponse:
        """The gates of credit, limit and rate; then the answer. What was held for it is settled, however it ends."""
        tokens = len(asked.body) // BYTES_PER_TOKEN + min(output_limit, asked.model.max_output_tokens)
        hold = await self.credit.admit(wanted)
        cost_pico: int | None = 0  # as long as nothing was sent
        try:
            admitted = self.rates.admit(asked.standing, tokens, hold.purse.edges)
            asked.request[HEADERS] = admitted.headers
            cost_pico, asked.request[SENT] = None, True
            answer, settled = await self._relayed(asked, hold.purse.lease_id)
            if settled is not None:
                cost_pico = settled.cost_pico
                wanted.cost(cost_pico)
            elif isinstance(answer, web.Response):  # a refusal: only a stream can end without telling
                cost_pico = 0
            admitted.settle(settled.tokens if settled else 0)
        except NoSupplier:
            cost_pico = 0
            admitted.settle(0)
            raise
        finally:
            self.credit.settle(hold, cost_pico)
        return answer

    async def _relayed(self, asked: Asked, lease_id: str) -> Relayed:
        started, standing = monotonic(), asked.standing
        headers = {
            "Authorization": f"Bearer {self.internal_token}",
            "Content-Type": "application/json",
            "x-request-id": asked.id,
            "x-opentoken-workspace": standing.workspace_id,
            "x-opentoken-key": standing.key_id,
            "x-opentoken-lease": lease_id,
            "x-opentoken-deadline-ms": DEADLINE_MS,
        }
        if trace := asked.request.headers.get("traceparent"):
            headers["traceparent"] = trace
        call = Call(asked.model.provider, asked.request.path, asked.body, headers)
        passing("edge.before_dispatch")
        try:
            return await relay(asked.request, self.workers, call, started)
        except Lost as lost:
            path, stream = asked.request.path, asked.stream
            event = worker_lost(asked.id, standing, asked.model, path, stream=stream, lease_id=lease_id)
            witness = asyncio.create_task(self._witness(Encoded.of(event, "edge")))
            self.under_way.add(witness)
            witness.add_done_callback(self.under_way.discard)
            await asyncio.shield(witness)  # the client may leave: it is on record all the same
            return await lost_answer(lost), None

    async def _witness(self, event: Encoded) -> None:
        with contextlib.suppress(BillingUnavailable):  # it would have cost nothing; the client's answer is the same
            await self.outbox.put(event)


def _wanted(asked: Asked, most_pico: int) -> Wanted:
    standing = asked.standing
    limited = standing.spend_limit_pico is not None
    return Wanted(asked.id, standing.workspace_id, standing.key_id, limited, most_pico, standing.strict)


async def _body(request: web.Request) -> bytes:
    """The whole body; one that says it is too large is refused before it is read."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise RequestTooLarge(f"the request body is larger than {MAX_BODY_BYTES} bytes")
    return await request.read()
