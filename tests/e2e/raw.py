"""Requests as no SDK would send them: whatever headers and bytes, and the answer as it came."""

import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.stacks import Stack

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
