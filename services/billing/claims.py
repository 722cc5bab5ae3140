"""The routes by which edges claim Idempotency-Keys, and the job that deletes what is past its day."""

import asyncio
from typing import Annotated

import structlog
from aiohttp import web
from pydantic import Field
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from services.billing.database import Threads
from services.billing.idempotency import PURGED_AT_ONCE, Claim, Claimed, IdempotencyKeys
from services.billing.ledger import Ledger
from shared.bodies import Strict, parse
from shared.errors import NotFound
from shared.events import UsageRecorded
from shared.http import json_response
from shared.ids import request_id_of

log = structlog.get_logger()

PURGE_EVERY_S = 300.0  # answers are gone within five minutes of their day

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NewClaim(Strict):
    """POST /internal/claims. `lost` ends a request that was abandoned: its record, at 0."""

    workspace_id: str
    key_digest: Digest
    body_digest: Digest
    request_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    stream: bool
    lost: UsageRecorded | None = None


class Claims:
    """Handlers; they are for edges alone, which is decided where they are routed."""

    def __init__(self, engine: Engine, ledger: Ledger, threads: Threads) -> None:
        self._keys, self._ledger, self._threads = IdempotencyKeys(engine), ledger, threads

    async def claim(self, request: web.Request) -> web.Response:
        """POST /internal/claims: the state that the key was in; `free` means that it is the claimer's now."""
        new = parse(NewClaim, await request.read())
        found = await self._threads.write(self._claimed, new)
        answer = None if found.answer is None else found.answer.decode()
        return json_response({"state": found.state, "request_id": found.request_id, "answer": answer})

    async def keep(self, request: web.Request) -> web.Response:
        """PUT /internal/claims/{id}/answer: the answer, as it was sent."""
        kept = await self._threads.write(self._keys.keep, _request_id(request), await request.read())
        return json_response({"kept": kept})

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

    def _claimed(self, new: NewClaim) -> Claimed:
        claim = Claim(**{name: getattr(new, name) for name in Claim.__slots__})
        found = self._keys.claim(claim)
        if found.state == "abandoned" and new.lost is not None and new.lost.request_id == found.request_id:
            log.warning("request_abandoned", request_id=found.request_id, workspace_id=new.workspace_id)
            self._ledger.record([new.lost])
            return self._keys.claim(claim)
        return found


def _request_id(request: web.Request) -> str:
    if (request_id := request_id_of(request.match_info["id"])) is None:
        raise NotFound("no claim has this id")
    return request_id
