"""The simulator's application: both providers' routes and its own served log on one port."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import structlog
from aiohttp import web
from pydantic import ValidationError

from services.simulator import anthropic
from services.simulator.anthropic.errors import Refusal as AnthropicRefusal
from services.simulator.delivery import Delivery, Ticket
from services.simulator.google import GEMINI, Google, errors
from services.simulator.google.accounts import Account
from services.simulator.google.errors import Refusal as GoogleRefusal
from services.simulator.script import Call, Script
from services.simulator.served import ServedLog
from shared.drain import DRAINING
from shared.http import json_response
from shared.ids import new_id
from shared.settings import ProcessSettings

log = structlog.get_logger()

MAX_BODY_BYTES = 100 * 1024 * 1024  # Google's limit, the larger of the two; Anthropic's is checked on its side
MAX_ATTEMPTED = 10_000  # bodies under `fail_first` that are remembered; a test has a handful


class SimulatorSettings(ProcessSettings):
    """What the simulator takes from the environment."""

    simulator_log: Path | None = None


class Simulator:
    """What the routes share: the log, the count of requests and of attempts, and whether we are stopping."""

    def __init__(self, settings: SimulatorSettings | None) -> None:
        self.served = ServedLog(settings.simulator_log if settings else None)
        self.google = Google()
        self.stopping = asyncio.Event()
        self._numbers = count(1)
        self._attempts: OrderedDict[bytes, int] = OrderedDict()

    async def lifetime(self, _: web.Application) -> AsyncIterator[None]:
        """The log's file is open for as long as the application runs."""
        yield
        self.served.close()

    def handler(
        self, provider: str, operation: str | None, respond: Callable[[Call], Script]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler of a provider's route; without an operation, the path's method is its name in the log."""

        async def handle(request: web.Request) -> web.StreamResponse:
            started = datetime.now(UTC)
            body = await request.read()
            digest = hashlib.blake2b(request.raw_path.encode() + b"\0" + body, digest_size=32).digest()
            call = Call(
                id=new_id().replace("-", ""),
                path=request.match_info,
                query=request.query,
                headers=request.headers,
                body=body,
                seed=digest,
                attempt=lambda: self._attempt(digest),
            )
            ticket = Ticket(next(self._numbers), provider, operation or request.match_info["method"], started)
            return await Delivery(request, respond(call), ticket, self.served).run(self.stopping)

        return handle

    def _attempt(self, digest: bytes) -> int:
        self._attempts[digest] = attempt = self._attempts.pop(digest, 0) + 1
        if len(self._attempts) > MAX_ATTEMPTED:
            self._attempts.popitem(last=False)
        return attempt

    async def read_served(self, request: web.Request) -> web.Response:
        """`GET /simulator/served?since=N`: the entries after request N."""
        since = request.query.get("since", "0")
        if not since.isdecimal():
            return json_response({"error": f"since must be a request number, not {since!r}"}, 400)
        return json_response(self.served.since(int(since)))

    async def clear_served(self, _: web.Request) -> web.Response:
        """`DELETE /simulator/served`: empty it."""
        self.served.clear()
        return web.Response(status=204)

    async def tell_account(self, request: web.Request) -> web.Response:
        """`PUT /simulator/accounts/{email}`: know a service account from now on; the tokens that it has end."""
        try:
            account = Account.model_validate_json(await request.read())
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, problem["loc"]))
            return json_response({"error": f"{place}: {problem['msg']}"}, 400)
        self.google.accounts.tell(request.match_info["email"], account)
        return web.Response(status=204)


def build_app(settings: SimulatorSettings | None = None) -> web.Application:
    """The application; without settings the served log is kept in memory only.

    Serve it with `handler_cancellation`, as `shared.http.listening` does: a client that leaves ends its request.
    """
    simulator = Simulator(settings)
    app = web.Application(middlewares=[envelope], client_max_size=MAX_BODY_BYTES)
    app.cleanup_ctx.append(simulator.lifetime)
    app[DRAINING] = simulator.stopping  # which lets go of the requests that are kept waiting
    app.router.add_get("/health", health)
    app.router.add_get("/simulator/served", simulator.read_served)
    app.router.add_delete("/simulator/served", simulator.clear_served)
    app.router.add_put("/simulator/accounts/{email}", simulator.tell_account)
    app.router.add_post("/v1/messages", simulator.handler("anthropic", "messages", anthropic.respond))
    for route in simulator.google.routes:
        app.router.add_route(route.verb, route.path, simulator.handler("google", route.operation, route.respond))
    return app


async def health(_: web.Request) -> web.Response:
    """`GET /health`."""
    return json_response({"status": "ok"})


@web.middleware
async def envelope(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """What never reached a provider's code is refused in that provider's words all the same."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _refusal(request, error.status, f"{request.method} {request.path}: {error.reason}")
    except ConnectionResetError:
        raise  # the client left, and nobody reads what we would answer
    except Exception:
        log.exception("request_failed", path=request.path)
        return _refusal(request, 500, "the simulator failed: its log says why")


def _refusal(request: web.Request, status: int, message: str) -> web.Response:
    if request.path.startswith((f"{GEMINI}/", "/v1/projects/")):
        body = errors.body(GoogleRefusal(status, message))
    else:
        body = anthropic.errors.body(AnthropicRefusal(status, message), f"req_{new_id()}")
    return web.Response(status=status, body=body, content_type="application/json")
