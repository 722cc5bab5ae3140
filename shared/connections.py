"""aiohttp's server, but that what its parser refuses, before there is a request, is told in our envelope, too."""

import asyncio
from collections.abc import Mapping

import orjson
import structlog
from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, LineTooLong

from shared.errors import ApiError, InternalError, InvalidRequest
from shared.ids import new_id

log = structlog.get_logger()

# What the parser says of these quotes what was sent, or is advice for whoever runs this.
PLAINLY: Mapping[type, str] = {
    LineTooLong: "the request line or a header is longer than 8190 bytes",
    ContentEncodingError: "the request body's Content-Encoding is not known here: use gzip, deflate or none",
}


class Runner(web.AppRunner):
    """Runs an application on such connections. A handler is cancelled when its client leaves."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made.request_handler, request_factory=made.request_factory, handler_cancellation=True)


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), access_log=None)  # type: ignore[arg-type]  # it means none


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no request that the application could be given. Raises ConnectionError."""
        request_id = new_id()
        if status >= 500:
            log.error("request_failed", request_id=request_id, exc_info=exc)
        else:  # its words might quote a key
            log.warning("not_a_request", request_id=request_id, status=status, reason=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is out already")
        error = _error(status, PLAINLY.get(type(exc)) or _said(message or ""))
        headers = {"x-request-id": request_id}
        answer = web.Response(
            body=orjson.dumps(error.body()), status=error.status, headers=headers, content_type="application/json"
        )
        answer.force_close()
        return answer


def _said(message: str) -> str:
    """What the parser says, without the lines that quote what was sent."""
    return "this is not HTTP: " + message.partition("\n")[0].rstrip(":")


def _error(status: int, words: str) -> ApiError:
    if status >= 500:
        return InternalError()
    refused = InvalidRequest(words)
    refused.status = status
    return refused
