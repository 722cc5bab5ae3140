"""How a service ends: first it says so (`/ready` fails, answers carry `Connection: close`) and still takes connections,
until load balancers and edges have noticed; then it takes none, and what runs may finish; then it breaks the rest off
(the app's `on_shutdown`, then aiohttp) and cleans up. A kept connection is left to its client to close: whoever closes
one on which the other end may be sending loses a request.
"""

import asyncio
from collections.abc import Collection
from time import monotonic
from typing import Final

from aiohttp import web

from shared.bodies import Strict

LINGER_S = 6.0  # a pod's end reaches every node and name server within 5 s; longer than our clients keep a connection
GRACE_S = 60.0  # most streams end within it; a longer one is broken off
CUT_S = 2.0  # for the last words of an answer that is broken off; aiohttp waits it twice
FLUSH_S = 20.0  # bounds what follows the grace: twice CUT_S, settlements, the spool, 10 s for confirmations
TICK_S = 0.05  # between looks at what still runs

DRAINING: web.AppKey[asyncio.Event] = web.AppKey("draining", asyncio.Event)
UNDER_WAY: web.AppKey[Collection[object]] = web.AppKey("under_way")
"""Set by an app whose work outlives its connections: what is under way."""

BREAK_OFF: Final = "/internal/break-off"


class BreakOff(Strict):
    """POST /internal/break-off, from an edge that ends to a worker: what it is to end now, as a failure of ours."""

    request_ids: list[str]


async def drain(app: web.Application, runner: web.AppRunner, linger_s: float, grace_s: float) -> None:
    """All but the last step; `linger_s` is also how long a silent connection is left to its client to close."""
    if DRAINING in app:
        app[DRAINING].set()
    started = quiet_since = monotonic()
    closing_at, over_at = started + linger_s, started + linger_s + grace_s
    quiet_s = linger_s and linger_s + TICK_S  # the tick is for a connection that was taken at the last moment
    while (now := monotonic()) < over_at:
        if now >= closing_at:
            for site in runner.sites:
                # Whom the kernel has connected and this loop has not taken yet is reset here: hence LINGER_S.
                await site.stop()
        if _at_work(app, runner):
            quiet_since = now
        elif now >= closing_at and (now >= quiet_since + quiet_s or not _connections(runner)):
            return
        await asyncio.sleep(TICK_S)


def _at_work(app: web.Application, runner: web.AppRunner) -> bool:
    # aiohttp tells it in no other way, and counting requests in a middleware would miss the writing of their answers.
    return bool(app.get(UNDER_WAY, ())) or any(one._request_in_progress for one in _connections(runner))  # noqa: SLF001


def _connections(runner: web.AppRunner) -> list[web.RequestHandler]:
    return runner.server.connections if runner.server else []
