"""What our HTTP services have in common: envelopes for every error, `x-request-id` everywhere, health, a clean end."""

import asyncio
import contextlib
import gc
import hmac
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import orjson
import structlog
import uvloop
from aiohttp import web

from shared import metrics
from shared.connections import Runner
from shared.drain import CUT_S, DRAINING, GRACE_S, LINGER_S, drain
from shared.errors import (
    ApiError,
    InternalError,
    InvalidKey,
    InvalidRequest,
    MethodNotAllowed,
    MissingAuth,
    NotFound,
    RequestTooLarge,
)
from shared.ids import new_id

log = structlog.get_logger()

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
BEGUN: web.RequestKey[web.StreamResponse] = web.RequestKey("begun", web.StreamResponse)
Check = Callable[[], Awaitable[None]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STOPS = (signal.SIGTERM, signal.SIGINT)
CHECK_TIMEOUT_S = 2.0  # below the usual probe timeout, so that the answer can still name what is slow
GC_THRESHOLD = 50_000  # objects more than went: a batch of the ledger makes as many, and keeps none of them
AGAIN_S = 0.5  # a terminal and a supervisor may pass on the same signal; a person's second one comes later


class ClientLeft(Exception):
    """The client is gone; there is nobody to answer."""


def json_response(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(body=orjson.dumps(data), status=status, headers=headers, content_type="application/json")


def error_response(error: ApiError, **more: Any) -> web.Response:
    """An error in its envelope."""
    return json_response(error.body(**more), error.status, error.headers)


def bearer(request: web.Request) -> str:
    """The token of `Authorization: Bearer <token>`. Raises MissingAuth."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token or " " in token or not token.isascii():
        raise MissingAuth
    return token


def require_bearer(request: web.Request, *accepted: str) -> None:
    """Let pass only one of the accepted tokens. Raises MissingAuth or InvalidKey."""
    token = bearer(request).encode()
    if not sum(hmac.compare_digest(token, one.encode()) for one in accepted):  # no early exit: constant time
        raise InvalidKey


def build_app(service: str, checks: Mapping[str, Check], *, max_body_bytes: int = 1024 * 1024) -> web.Application:
    """An application with `/health`, `/ready` (each check named) and the envelope for whatever goes wrong."""
    app = web.Application(middlewares=[_envelope(service)], client_max_size=max_body_bytes)
    app[DRAINING] = draining = asyncio.Event()
    app.on_response_prepare.append(_stamp)

    async def health(_: web.Request) -> web.Response:
        return json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        if draining.is_set():
            return json_response({"status": "draining", "checks": {}}, 503)
        results = dict(zip(checks, await asyncio.gather(*map(_outcome, checks.values())), strict=True))
        fine = all(result == "ok" for result in results.values())
        return json_response({"status": "ok" if fine else "unavailable", "checks": results}, 200 if fine else 503)

    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    return app


async def _outcome(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except Exception as error:  # noqa: BLE001 - any failure of a dependency is the answer here
        return str(error) or type(error).__name__
    return "ok"


async def _stamp(request: web.Request, response: web.StreamResponse) -> None:
    request[BEGUN] = response
    response.headers["x-request-id"] = request.get(REQUEST_ID) or new_id()
    if request.app[DRAINING].is_set():
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp has made its headers by now


def _envelope(service: str) -> Any:
    @web.middleware
    async def envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.monotonic()
        request[REQUEST_ID] = new_id()
        response = await _answer(request, handler)
        if request.get(BEGUN, response) is not response and request.transport is not None:
            request.transport.abort()  # another answer is out already: this one could only garble it
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "unknown"
        metrics.REQUESTS.labels(service, route, response.status).inc()
        metrics.DURATION.labels(service, route).observe(time.monotonic() - started)
        return response

    return envelope


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (ClientLeft, ConnectionResetError):  # nobody reads what we answer
        return web.Response(status=499)
    except ApiError as error:
        return error_response(error)
    except web.RequestPayloadError:
        return error_response(InvalidRequest("the request body is not encoded as its headers say"))
    except web.HTTPException as error:
        return error_response(_api_error(error, request))
    except Exception:
        event_id = new_id()
        log.exception("request_failed", request_id=request[REQUEST_ID], event_id=event_id, path=request.path)
        return error_response(InternalError(), event_id=event_id)


async def expecting(request: web.Request) -> web.Response | None:
    """An `expect_handler`: the one expectation that there is (RFC 9110, 10.1.1), and the envelope for any other."""
    expected = request.headers["Expect"]
    if expected.lower() != "100-continue":
        refused = InvalidRequest("the only expectation that can be met is 100-continue")
        refused.status = web.HTTPExpectationFailed.status_code
        return error_response(refused)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun
    return None


def _api_error(error: web.HTTPException, request: web.Request) -> ApiError:
    """What aiohttp refused by itself, in our words."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.method} is not allowed on {request.path}: use {allowed}"
        return MethodNotAllowed(message, headers={"Allow": allowed})
    if isinstance(error, web.HTTPNotFound):
        return NotFound(f"no such route: {request.method} {request.path}")
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return RequestTooLarge()
    refused = InvalidRequest(error.reason)
    refused.status = error.status
    return refused


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, host: str, port: int, *, linger_s: float = 0.0, grace_s: float = GRACE_S
) -> AsyncIterator[int]:
    """Serve `app` for the length of the block; yields the port (useful where 0 was asked for).

    At the end it drains (`shared.drain`), unless the block has failed.
    """
    runner = Runner(app, shutdown_timeout=CUT_S)
    try:
        await runner.setup()
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        yield runner.addresses[0][1]
        await drain(app, runner, linger_s, grace_s)
    finally:
        await runner.cleanup()


async def serve(app: web.Application, host: str, port: int, metrics_port: int | None) -> None:
    """Run a service until SIGTERM or SIGINT."""
    async with contextlib.AsyncExitStack() as stack:
        if metrics_port is not None:
            await stack.enter_async_context(listening(metrics.build_app(), host, metrics_port))
        bound = await stack.enter_async_context(listening(app, host, port, linger_s=LINGER_S))
        _keep_what_is()
        log.info("listening", host=host, port=bound)
        await until_told_to_stop()
        log.info("stopping", linger_s=LINGER_S, grace_s=GRACE_S)
    log.info("stopped")


def _keep_what_is() -> None:
    """What the start has made is never garbage; and what comes and goes with each request is counted in thousands."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


async def until_told_to_stop() -> None:
    """Return at the first SIGTERM or SIGINT. A second one, a moment later, ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for name in STOPS:
        loop.add_signal_handler(name, stop.set)
    await stop.wait()
    loop.call_later(AGAIN_S, _stop_at_once)


def _stop_at_once() -> None:
    """Leave the next signal to the kernel: whatever must outlive this process is on a disk or with the broker."""
    for name in STOPS:
        asyncio.get_running_loop().remove_signal_handler(name)
        signal.signal(name, signal.SIG_DFL)


def run(main: Awaitable[None]) -> None:
    """Run a process's main coroutine on uvloop."""
    uvloop.run(main)  # type: ignore[arg-type]
