"""Idempotency-Keys: a request that is sent again is answered again, and billed once.

Billing keeps what a key stands for (`services/billing/idempotency.py`), so any edge may take the second request, and
only requests with the header pay for the call. Where billing cannot be asked, nothing runs: once is the promise.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web

from services.edge.accounts import Standing
from services.edge.billing import Billing
from shared import http
from shared.catalog import Model
from shared.errors import NEVER, ApiError, BillingUnavailable, IdempotencyConflict, InternalError, InvalidRequest
from shared.openai import MAX_KEPT_BYTES

log = structlog.get_logger()

HEADER = "Idempotency-Key"
REPLAYED = "x-opentoken-replayed"
MAX_KEY_CHARS = 255  # as long as other APIs take them
RETRY_AFTER_S = 2  # answers take seconds
ONCE_MORE = {"Retry-After": str(RETRY_AFTER_S)}

OTHER_BODY = "this Idempotency-Key was used with another request: use a new one for every new request"
RUNNING = "the first request with this Idempotency-Key is still running: try again later"
BILLED = (
    "the first request with this Idempotency-Key was billed and cannot be answered again: its receipt is at"
    " /v1/generations/{}; use a new key to run it anew"
)
UNKNOWN = (
    "it is not known yet what became of the first request with this Idempotency-Key, and the key cannot be used before"
    " that is known: use a new key to run the request anew"
)

SENT: web.RequestKey[bool] = web.RequestKey("sent", bool)  # to a worker: from then on it may cost something
Serve = Callable[[], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A valid request, and whose it is."""

    request: web.Request
    standing: Standing
    model: Model
    body: bytes
    stream: bool

    @property
    def id(self) -> str:
        """The request id."""
        return self.request[http.REQUEST_ID]


class Idempotency:
    """Runs requests once a key. What it runs under a key goes on when the client leaves, but for streams."""

    def __init__(self, billing: Billing) -> None:
        self._billing = billing
        self.running = set[asyncio.Task[Any]]()

    async def once(self, asked: Asked, serve: Serve) -> web.StreamResponse:
        """The answer of `serve`, or the one it gave before. Raises InvalidRequest, IdempotencyConflict,
        BillingUnavailable, and whatever `serve` does.
        """
        key = asked.request.headers.get(HEADER)
        if key is None:
            return await serve()
        if not 0 < len(key) <= MAX_KEY_CHARS:
            raise InvalidRequest(f"{HEADER} must have from 1 to {MAX_KEY_CHARS} characters", param=HEADER)
        work = self._run(asked, key, serve)
        return await (work if asked.stream else asyncio.shield(self._start(work)))

    async def _run(self, asked: Asked, key: str, serve: Serve) -> web.StreamResponse:
        found = await self._claimed(asked, key)
        return await self._settled(asked, serve) if found["state"] == "free" else _replayed(asked, found)

    async def _claimed(self, asked: Asked, key: str) -> dict[str, Any]:
        claim = {
            "workspace_id": asked.standing.workspace_id,
            "key_digest": hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest(),
            "body_digest": hashlib.sha256(asked.request.path.encode() + b"\n" + asked.body).hexdigest(),
            "request_id": asked.id,
            "stream": asked.stream,
        }
        try:
            return await self._billing.claim(claim)
        except (BillingUnavailable, asyncio.CancelledError):
            self._start(self._release(asked.id))  # it may have been made all the same
            raise

    async def _settled(self, asked: Asked, serve: Serve) -> web.StreamResponse:
        """Serve, then keep the answer, or free the key of what is known to have cost nothing.

        Of all else (a worker lost, a stream, a client gone) the usage record will tell.
        """
        try:
            answer = await serve()
        except (BillingUnavailable, asyncio.CancelledError):  # no credit could be asked for; a stream's client left
            if SENT not in asked.request:
                self._start(self._release(asked.id))  # which may take as long again
            raise
        except ApiError as error:
            if not isinstance(error, InternalError):
                await self._release(asked.id)
            raise
        if answer.status != 200:
            await self._release(asked.id)
        elif isinstance(answer, web.Response) and isinstance(answer.body, bytes):
            await self._keep(asked.id, answer.body)
        return answer

    async def _keep(self, request_id: str, body: bytes) -> None:
        try:
            if len(body) <= MAX_KEPT_BYTES:
                await self._billing.keep(request_id, body)
            else:
                await self._billing.keep_none(request_id)
        except BillingUnavailable as error:  # a second request is refused, as one of a stream is
            log.warning("answer_not_kept", request_id=request_id, reason=error.message)

    async def _release(self, request_id: str) -> None:
        try:
            await self._billing.release(request_id)
        except BillingUnavailable as error:  # the usage record, or time, will free it
            log.warning("claim_not_released", request_id=request_id, reason=error.message)

    def _start(self, work: Coroutine[None, None, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self.running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.running.discard(task)
        if not task.cancelled():
            task.exception()  # where the client has left, nobody else retrieves it


def _replayed(asked: Asked, found: dict[str, Any]) -> web.Response:
    """The first answer, under the first request's id and at no cost. Raises IdempotencyConflict where it has none."""
    match found["state"]:
        case "finished":
            asked.request[http.REQUEST_ID] = found["request_id"]
            headers = {REPLAYED: "true", "x-opentoken-cost": "0"}
            return web.Response(body=found["answer"].encode(), content_type="application/json", headers=headers)
        case "other_body":
            raise IdempotencyConflict(OTHER_BODY, param=HEADER, headers=NEVER)
        case "billed":
            raise IdempotencyConflict(BILLED.format(found["request_id"]), param=HEADER, headers=NEVER)
        case "unknown":
            raise IdempotencyConflict(UNKNOWN, param=HEADER, headers=NEVER)
        case _:
            raise IdempotencyConflict(RUNNING, param=HEADER, headers=ONCE_MORE)
