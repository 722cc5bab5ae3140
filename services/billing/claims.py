"""The routes by which edges claim Idempotency-Keys, and the job that deletes what is past its day."""

import asyncio
from typing import Annotated

import structlog
from aiohttp import web
from pydantic import Field
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from services.billing.database import Threads
from services.billing.idempotency import PURGED_AT_ONCE, Claim, IdempotencyKeys
from shared.bodies import Strict, parse
from shared.errors import NotFound
from shared.http import json_response
from shared.ids import request_id_of
from shared.openai import MAX_KEPT_BYTES

log = structlog.get_logger()

PURGE_EVERY_S = 300.0  # answers are gone within five minutes of their day

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NewClaim(Strict):
    """POST /internal/claims."""

    workspace_id: str
    key_digest: Digest
    body_digest: Digest
    request_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    stream: bool


class Claims:
    """Handlers; they are for edges alone, which is decided where they are routed."""

    def __init__(self, engine: Engine, threads: Threads) -> None:
        self._keys, self._threads = IdempotencyKeys(engine), threads

    async def claim(self, request: web.Request) -> web.Response:
        """POST /internal/claims: the state that the key was in; `free` means that it is the claimer's now."""
        new = parse(NewClaim, await request.read())
        found = await self._threads.write(self._keys.claim, Claim(**new.model_dump()))
        answer = None if found.answer is None else found.answer.decode()
        return json_response({"state": found.state, "request_id": found.request_id, "answer": answer})

    async def keep(self, request: web.Request) -> web.Response:
        """PUT /internal/claims/{id}/answer: the answer, as it was sent; the one body here that may be large."""
        answer = await request.clone(client_max_size=MAX_KEPT_BYTES).read()
        return json_response({"kept": await self._threads.write(self._keys.keep, _request_id(request), answer)})

    async def keep_none(self, request: web.Request) -> web.Response:
        """DELETE /internal/claims/{id}/answer: there will be none."""
        await self._threads.write(self._keys.keep_none, _request_id(request))
        return json_response({"kept": False})

    async def release(self, request: web.Request) -> web.Response:
        """DELETE /internal/claims/{id}."""
        return json_response({"released": await self._threads.write(self._keys.release, _request_id(request))})

    async def keep_purging(self) -> None:
        """Delete what is past its day until cancelled, whatever goes wrong."""
        while True:
            try:
                while await self._threads.write(self._keys.purge) == PURGED_AT_ONCE:
                    pass
            except SQLAlchemyError:
                log.exception("answers_not_purged", retry_s=PURGE_EVERY_S)
            await asyncio.sleep(PURGE_EVERY_S)


def _request_id(request: web.Request) -> str:
    if (request_id := request_id_of(request.match_info["id"])) is None:
        raise NotFound("no claim has this id")
    return request_id
