"""What is no request: bytes that the parser refuses before any handler could see them."""

import asyncio

import orjson
import pytest
from structlog.testing import capture_logs

from shared import http

KEY = "sk-optk-AbCdEfGh1234-kkkk"
HOST = b"Host: a\r\n"
AUTHORIZATION = f"Authorization: Bearer {KEY}".encode()


async def exchanged(sent: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """The status line, the headers and the body of the answer to these bytes, up to its end."""
    app = http.build_app("test", {})
    async with http.listening(app, "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    status, *lines = head.split(b"\r\n")
    return status, dict(line.decode().split(": ", 1) for line in lines), body


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"BREW / HTTP/1.1\r\n" + HOST, "Invalid method"),
        (b"GET / HTTP/1.1\r\n" + HOST + AUTHORIZATION + b"k" * 20_000 + b"\r\n", "longer than 8190 bytes"),
        (b"GET / HTTP/1.1\r\n" + HOST + AUTHORIZATION + b"\0\r\n", "Invalid"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Encoding: br\r\n", "gzip, deflate or none"),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: many\r\n", "Content-Length"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "HTTPS"),
    ],
    ids=["a method", "a long header", "a header with a zero", "an encoding", "a length", "TLS"],
)
async def test_what_is_not_http_is_refused_in_the_envelope_and_not_quoted(
    sent: bytes, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with capture_logs() as logs:
        status, headers, body = await exchanged(sent + b"\r\n")
    error = orjson.loads(body)["error"]
    assert status.split(b" ", 1)[1] == b"400 Bad Request"
    assert error["type"] == "invalid_request_error"
    assert told in error["message"]
    assert headers["x-request-id"] == logs[0]["request_id"]
    assert KEY not in error["message"] + str(logs) + caplog.text
