"""What edges ask of billing: where a key stands, and credit to lend."""

import asyncio

import structlog
from aiohttp import web
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from services.billing.announcer import Announcer
from services.billing.bodies import KeyDigest
from services.billing.database import Threads
from services.billing.leases import Leases
from services.billing.standing import Standings
from shared.bodies import parse
from shared.http import json_response
from shared.leases import Asks

log = structlog.get_logger()

SWEEP_EVERY_S = 60.0  # nobody waits for it: a lease is swept an hour after it ran out


class Lender:
    """Handlers; who may call them is decided where they are routed."""

    def __init__(self, engine: Engine, threads: Threads, announcer: Announcer) -> None:
        self._standings, self._leases = Standings(engine), Leases(engine)
        self._threads, self._announcer = threads, announcer

    async def standing(self, request: web.Request) -> web.Response:
        """POST /internal/standing."""
        body = parse(KeyDigest, await request.read())
        return json_response(await self._threads.prompt(self._standings.of, body.digest))

    async def leases(self, request: web.Request) -> web.Response:
        """POST /internal/leases."""
        asks = parse(Asks, await request.read())
        answers, short = await self._threads.lend(self._leases.answer, asks)
        for workspace_id in short:
            self._announcer.recall(workspace_id)
        return json_response(answers.model_dump())

    async def keep_sweeping(self) -> None:
        """Free what dead edges held, until cancelled, whatever goes wrong."""
        while True:
            try:
                if freed := await self._threads.lend(self._leases.sweep):
                    log.info("leases_freed", count=freed)
            except SQLAlchemyError:
                log.exception("leases_not_swept", retry_s=SWEEP_EVERY_S)
            await asyncio.sleep(SWEEP_EVERY_S)
