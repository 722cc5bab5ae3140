"""Requests as no SDK would send them: whatever headers and bytes, and the answer as it came."""

import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from shared.ids import request_id_of
from tests.e2e.stacks import Stack

CHAT, EMBEDDINGS, MODELS = "/v1/chat/completions", "/v1/embeddings", "/v1/models"
CLAUDE, GEMINI, VECTORS = "anthropic/claude-haiku-4-5", "google/gemini-2.5-pro", "google/text-embedding-004"
USER: dict[str, Any] = {"role": "user", "content": "Hello"}
TIMEOUT_S = 30.0
Headers = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, read to its end. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def chat(**members: Any) -> dict[str, Any]:
    """A good chat request, with other or more members."""
    return {"model": CLAUDE, "messages": [USER]} | members


def embed(**members: Any) -> dict[str, Any]:
    """A good embeddings request, with other or more members."""
    return {"model": VECTORS, "input": "Hello"} | members


def authorized(key: str) -> Headers:
    """The header that every SDK sends."""
    return [("Authorization", f"Bearer {key}")]


def send(
    stack: Stack, method: str, path: str, headers: Headers = (), body: bytes | None = None, *, chunked: bool = False
) -> Answer:
    """One request on a connection of its own; its length is declared, unless it is to go in chunks."""
    address = urlsplit(stack.base_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=TIMEOUT_S)
    connection.putrequest(method, path, skip_accept_encoding=True)
    length = [("Transfer-Encoding", "chunked")] if chunked else [("Content-Length", str(len(body or b"")))]
    for name, value in [*headers, *length]:
        connection.putheader(name, value)
    return _answer(connection, body, chunked=chunked)


def post(stack: Stack, path: str, body: Any, *, key: str | None = None) -> Answer:
    """A POST with the stack's own key, unless another is given; what is not bytes already goes as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return send(stack, "POST", path, authorized(key or stack.key), data)


def _answer(connection: http.client.HTTPConnection, body: bytes | None, *, chunked: bool) -> Answer:
    try:
        connection.endheaders([body] if chunked and body else body, encode_chunked=chunked)
        with connection.getresponse() as response:
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())
    finally:
        connection.close()


def envelope(answer: Answer, status: int, code: str | None, type: str = "invalid_request_error") -> dict[str, Any]:
    """The error of a refusal, which has to be well formed in every respect; its words are the caller's to check."""
    assert answer.status == status, answer.body[:500]
    assert answer.headers["content-type"].startswith("application/json")
    assert request_id_of(answer.headers["x-request-id"])
    assert answer.json.keys() == {"error"}
    error: dict[str, Any] = answer.json["error"]
    assert (error["type"], error["code"]) == (type, code)
    assert error.keys() - {"param"} == {"message", "type", "code"}
    return error
