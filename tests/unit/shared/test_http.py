"""Whatever is asked of a service, the answer is an envelope with a request id, and tells nothing of our inside."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from shared import http
from shared.errors import InvalidKey, MissingAuth, SpendLimitExceeded
from shared.ids import request_id_of

SECRET = "sk-optk-secret"


async def broken(request: web.Request) -> web.Response:
    raise KeyError(f"row of {SECRET}")


async def refusing(request: web.Request) -> web.Response:
    raise SpendLimitExceeded(headers={"Retry-After": "9"})


async def reading(request: web.Request) -> web.Response:
    return http.json_response({"bytes": len(await request.read())})


async def guarded(request: web.Request) -> web.Response:
    http.require_bearer(request, "one", "two")
    return http.json_response({})


async def nothing_wrong() -> None:
    return


@contextlib.asynccontextmanager
async def serving(**checks: http.Check) -> AsyncIterator[aiohttp.ClientSession]:
    app = http.build_app("test", checks, max_body_bytes=1000)
    app.router.add_get("/broken", broken)
    app.router.add_get("/refusing", refusing)
    app.router.add_post("/reading", reading)
    app.router.add_get("/guarded", guarded)
    async with (
        http.listening(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


@pytest.mark.parametrize(
    ("method", "path", "size", "status", "kind", "code"),
    [
        ("GET", "/nowhere", 0, 404, "invalid_request_error", "not_found"),
        ("GET", "/", 0, 404, "invalid_request_error", "not_found"),
        ("DELETE", "/reading", 0, 405, "invalid_request_error", "method_not_allowed"),
        ("POST", "/reading", 1001, 413, "invalid_request_error", "request_too_large"),
        ("GET", "/refusing", 0, 429, "invalid_request_error", "spend_limit_exceeded"),
        ("GET", "/broken", 0, 500, "api_error", None),
    ],
)
async def test_every_failure_is_the_one_envelope_with_a_request_id(
    method: str, path: str, size: int, status: int, kind: str, code: str | None
) -> None:
    async with serving() as session, session.request(method, path, data=b"x" * size) as answer:
        assert answer.status == status
        assert answer.content_type == "application/json"
        assert request_id_of(answer.headers["x-request-id"])
        error = (await answer.json())["error"]
        assert (error["type"], error["code"]) == (kind, code)
        assert error["message"]
        assert ("event_id" in error) == (status == 500)


async def test_a_body_of_unknown_length_is_bounded_too() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    async with serving() as session:
        async with session.post("/reading", data=endless()) as answer:
            assert answer.status == 413
        async with session.post("/reading", data=b"x" * 1000) as answer:
            assert await answer.json() == {"bytes": 1000}


async def test_a_wrong_method_is_told_the_right_one() -> None:
    async with serving() as session, session.delete("/reading") as answer:
        assert answer.headers["Allow"] == "POST"
        assert "use POST" in (await answer.json())["error"]["message"]


async def test_our_own_error_tells_the_client_an_id_and_the_log_the_rest() -> None:
    with capture_logs() as logs:
        async with serving() as session, session.get("/broken") as answer:
            text = await answer.text()
            error = (await answer.json())["error"]
    assert SECRET not in text
    assert "KeyError" not in text
    (failure,) = [one for one in logs if one["event"] == "request_failed"]
    assert failure["event_id"] == error["event_id"]
    assert failure["request_id"] == answer.headers["x-request-id"]


async def test_what_fails_inside_a_stream_breaks_it_off_and_is_never_written_into_it() -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b"half")
        raise SpendLimitExceeded

    app = http.build_app("test", {})
    app.router.add_get("/half", half)
    async with http.listening(app, "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /half HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(10):
            _, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert body in {b"", b"4\r\nhalf\r\n"}


async def test_headers_of_an_error_reach_the_client() -> None:
    async with serving() as session, session.get("/refusing") as answer:
        assert answer.headers["Retry-After"] == "9"


async def test_each_answer_has_a_request_id_of_its_own() -> None:
    async with serving() as session:
        ids = set()
        for path in ("/health", "/health", "/ready", "/nowhere"):
            async with session.get(path) as answer:
                ids.add(answer.headers["x-request-id"])
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (None, MissingAuth),
        ("", MissingAuth),
        ("Bearer", MissingAuth),
        ("Bearer ", MissingAuth),
        ("Basic one", MissingAuth),
        ("Bearer one two", MissingAuth),
        ("Bearer öne", MissingAuth),
        ("Bearer three", InvalidKey),
        ("Bearer on", InvalidKey),
        ("Bearer one", None),
        ("bearer two", None),
    ],
)
async def test_only_a_bearer_of_an_accepted_token_passes(
    authorization: str | None, expected: type[MissingAuth | InvalidKey] | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with serving() as session, session.get("/guarded", headers=headers) as answer:
        if expected is None:
            assert answer.status == 200
        else:
            assert (answer.status, (await answer.json())["error"]["code"]) == (401, expected.code)


async def test_ready_names_what_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuses() -> None:
        raise ConnectionError("no route")

    async def hangs() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(http, "CHECK_TIMEOUT_S", 0.05)
    async with serving(fine=nothing_wrong, broker=refuses, database=hangs) as session:
        async with session.get("/ready") as answer:
            assert answer.status == 503
            checks = (await answer.json())["checks"]
        async with session.get("/health") as answer:
            assert await answer.json() == {"status": "ok"}
    assert checks == {"fine": "ok", "broker": "no route", "database": "TimeoutError"}


async def test_ready_is_200_while_all_is_well() -> None:
    async with serving(fine=nothing_wrong) as session, session.get("/ready") as answer:
        assert answer.status == 200
        assert (await answer.json())["status"] == "ok"


async def test_an_answer_that_is_running_is_finished_before_the_service_ends() -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        begun.set()
        await finish.wait()
        return http.json_response({"finished": True})

    app = http.build_app("test", {})
    app.router.add_get("/slow", slow)
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(http.listening(app, "127.0.0.1", 0))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            asking = asyncio.create_task(session.get("/slow"))
            await begun.wait()
            ending = asyncio.create_task(stack.aclose())
            await asyncio.sleep(0)
            finish.set()
            async with await asking as answer:
                assert await answer.json() == {"finished": True}
            await ending
