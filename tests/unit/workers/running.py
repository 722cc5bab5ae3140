"""A worker on a real port, the books that its usage reaches, and a client that speaks to it as the edge does."""

import asyncio
import contextlib
import inspect
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

from services.workers import anthropic, google
from services.workers.host import HOST, build_app
from services.workers.provider import Provider, Supplier
from shared import catalog
from shared.bus import Message
from shared.bus.local import LocalBus
from shared.events import Refused, UsageRecorded, decode
from shared.http import listening
from shared.ids import new_id

CATALOG = catalog.load()
TOKEN = "internal-token-of-tests"
DEADLINE_S = 20.0  # a test that waits longer has failed

PROVIDERS: dict[str, Provider] = {"anthropic": anthropic.PROVIDER, "google": google.PROVIDER}
MODELS = {"anthropic": "anthropic/claude-sonnet-4-6", "google": "google/gemini-3-flash"}
KEY_HEADERS = {"anthropic": "x-api-key", "google": "x-goog-api-key"}


async def until(condition: Callable[[], Any], what: str) -> Any:
    """What `condition()` returns, awaited where it can be, as soon as that is true."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        assert asyncio.get_running_loop().time() < deadline, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.005)


@dataclass
class Books:
    """What the bus delivered. While `held`, nothing is committed, so no publish returns."""

    records: list[UsageRecorded] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.released.set()

    async def take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            for event in decode(message.body):
                assert not isinstance(event, Refused), event.reason
                self.records.append(event)
        await self.released.wait()

    @contextlib.asynccontextmanager
    async def kept_by(self, bus: LocalBus) -> AsyncIterator["Books"]:
        """Consume `bus` for the length of the block."""
        consuming = asyncio.create_task(bus.consume(0, self.take))
        await until(lambda: bus.connected, "the books are open")
        try:
            yield self
        finally:
            self.released.set()
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)

    async def only(self) -> UsageRecorded:
        """The one record, as soon as it is there."""
        await until(lambda: self.records, "a record is published")
        (record,) = self.records
        return record


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str | None:
        return self.json["error"]["code"]


@dataclass(frozen=True, slots=True)
class Worker:
    """A running worker and a client for it."""

    url: str
    session: aiohttp.ClientSession
    books: Books
    app: web.Application

    def post(self, body: Any, path: str = "/v1/chat/completions", **headers: str | None) -> Any:
        """A call as the edge makes it; `x_opentoken_key="k"` sets a header, None leaves it out."""
        edge: dict[str, str | None] = {
            "Authorization": f"Bearer {TOKEN}",
            "x-request-id": new_id(),
            "x-opentoken-workspace": "w",
            "x-opentoken-key": "k",
            "x-opentoken-lease": "lease-1",
        }
        named = edge | {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps(body)  # numbers of any size
        kept = {name: value for name, value in named.items() if value is not None}
        return self.session.post(self.url + path, data=data, headers=kept)

    async def ask(self, body: Any, path: str = "/v1/chat/completions", **headers: str | None) -> Answer:
        async with self.post(body, path, **headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def calling(self) -> None:
        """Return once a call of the provider is under way."""
        connector = self.app[HOST].upstream.session.connector
        assert connector is not None
        await until(lambda: any(one.transport for one in connector._acquired), "the provider is called")

    async def left(self) -> None:
        """Return once the worker has heard that its clients left."""
        running = self.app[HOST].running.values()
        await until(lambda: all(one.client_gone for one in running), "the worker knows that nobody waits")

    async def answers(self) -> None:
        """One round trip: whatever the worker had written before is on its way."""
        async with self.session.get(f"{self.url}/health") as response:
            assert response.status == 200


@contextlib.asynccontextmanager
async def worker(provider: Provider, suppliers: list[Supplier]) -> AsyncIterator[Worker]:
    """A worker on an embedded bus."""
    bus = LocalBus()
    app = build_app(provider, suppliers, CATALOG, TOKEN, lambda: bus)
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with (
        Books().kept_by(bus) as books,
        listening(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        yield Worker(f"http://127.0.0.1:{port}", session, books, app)


Running = Callable[..., contextlib.AbstractAsyncContextManager[Worker]]
"""Starts the worker of a provider, by name."""


@dataclass(frozen=True, slots=True)
class Simulator:
    """A running simulator."""

    url: str
    session: aiohttp.ClientSession

    async def served(self) -> list[dict[str, Any]]:
        """What it says that it served, oldest first."""
        async with self.session.get(f"{self.url}/simulator/served") as response:
            return (await response.json())["served"]

    async def ended(self) -> dict[str, Any]:
        """The one call that it served, as soon as that has ended."""
        (one,) = await until(self.served, "the provider's call has ended")
        return one


def supplier(name: str, number: int, key: str, url: str) -> Supplier:
    return Supplier(f"{name}-{number}", url + "/v1beta" * (name == "google"), {KEY_HEADERS[name]: key})


def chat(name: str, prompt: str, **members: Any) -> dict[str, Any]:
    """A request to the provider's model."""
    return {"model": MODELS[name], "messages": [{"role": "user", "content": prompt}], **members}


@contextlib.asynccontextmanager
async def provider_that(answers: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """The URL of a provider that answers every call so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answers)
    async with listening(app, "127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}"


async def never_ends(request: web.Request, said: list[int] | None = None) -> web.StreamResponse:
    """Plays Anthropic saying more than any connection holds; `said` gets the bytes of each event that was taken."""
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    usage = {"input_tokens": 5, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    words = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x" * 10_000}}
    start: dict[str, Any] = {"type": "message_start", "message": message}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for event in [start, block] + [words] * 10_000:
        data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        await stream.write(data)
        if said is not None:
            said.append(len(data))
    return stream


def slow(url: str) -> socket.socket:
    """A connection whose kernel holds little, so that who does not read it is soon waited for."""
    address = URL(url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((address.host, address.port))
    client.setblocking(False)
    return client
