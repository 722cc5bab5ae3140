"""An edge on a real port between a billing service and workers that the test plays."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from services.edge.app import build_app
from shared.bus.local import LocalBus
from shared.http import json_response, listening
from shared.leases import Answers, Asks, Lent
from shared.money import PICO_PER_USD
from tests.unit.workers.running import CATALOG, DEADLINE_S, TOKEN, Answer, Books

KEY = "sk-optk-AbCdEfGh1234-" + "k" * 43
MODEL = "anthropic/claude-sonnet-4-6"
HELLO: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
DONE = b"data: [DONE]\n\n"
Plays = Callable[[web.Request], Awaitable[web.StreamResponse]]


def standing(**changes: Any) -> dict[str, Any]:
    """Billing's answer for a key in good standing, but for the changes."""
    return {
        "key_id": "AbCdEfGh1234", "workspace_id": "w", "label": None, "expires_at": None, "revoked_at": None,
        "strict": False, "balance_pico": str(10 * PICO_PER_USD), "available_pico": str(10 * PICO_PER_USD),
        "spend_limit_pico": None, "limit_reset": None,
        "window_spend_pico": "0", "window_resets_at": None,
        "requests_per_minute": None, "tokens_per_minute": None,
    } | changes  # fmt: skip


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass
class Bank:
    """Plays billing: it knows some keys, counts what it is asked, and can be away."""

    known: dict[str, dict[str, Any]] = field(default_factory=lambda: {digest(KEY): standing()})
    asked: list[str] = field(default_factory=list)
    away: bool = False
    edges: int = 1

    lent: list[Asks] = field(default_factory=list)
    settled: dict[str, int] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if request.path == "/internal/leases":
            return web.Response(status=503) if self.away else json_response(self._lend(Asks.model_validate(body)))
        wanted = body["digest"]
        self.asked.append(wanted)
        if self.away:
            return web.Response(status=503)
        return json_response(self.known[wanted]) if wanted in self.known else web.Response(status=404)

    def _lend(self, asks: Asks) -> dict[str, Any]:
        """All that is wanted, up to the balance and the limit; those are totals here, for ever."""
        self.lent.append(asks)
        lent = []
        for ask in asks.asks:
            (account,) = [one for one in self.known.values() if ask.key_id in {None, one["key_id"]}][:1]
            most = int(account["balance_pico"])
            if ask.key_id is not None:
                most = int(account["spend_limit_pico"]) - int(account["window_spend_pico"])
            granted = max(0, min(most, ask.wanted_pico)) if most >= ask.needed_pico or ask.less_will_do else 0
            lent.append(Lent(granted_pico=granted, short=granted < ask.needed_pico, edges=self.edges))
        settled = {name: self.settled[name] for name in asks.pending if name in self.settled}
        return Answers(lent=lent, settled=settled).model_dump()


@dataclass(frozen=True, slots=True)
class Edge:
    """A running edge and a client for it."""

    url: str
    session: aiohttp.ClientSession
    bank: Bank
    books: Books
    app: web.Application

    def post(self, body: Any, path: str = "/v1/chat/completions", key: str | None = KEY) -> Any:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        data = {"data": body} if isinstance(body, bytes) else {"json": body}
        return self.session.post(self.url + path, headers=headers, **data)

    async def ask(self, body: Any, path: str = "/v1/chat/completions", key: str | None = KEY) -> Answer:
        async with self.post(body, path, key) as response:
            return Answer(response.status, response.headers, await response.read())

    async def answers(self) -> None:
        """One round trip: whatever the edge had published before is in the books."""
        async with self.session.get(f"{self.url}/health") as response:
            assert response.status == 200


@contextlib.asynccontextmanager
async def serving(plays: Plays, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """The URL of a service that answers every call so."""
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", plays)
    async with listening(app, host, port) as bound:
        yield f"http://{host}:{bound}"


@contextlib.asynccontextmanager
async def edge_before(workers: Mapping[str, str]) -> AsyncIterator[Edge]:
    """An edge before workers that run already."""
    bank, bus = Bank(), LocalBus()
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with Books().kept_by(bus) as books, serving(bank.answer) as billing_url:
        app = build_app(CATALOG, TOKEN, workers, billing_url, lambda: bus)
        async with listening(app, "127.0.0.1", 0) as port, aiohttp.ClientSession(timeout=timeout) as session:
            yield Edge(f"http://127.0.0.1:{port}", session, bank, books, app)


@contextlib.asynccontextmanager
async def edge(worker: Plays) -> AsyncIterator[Edge]:
    """An edge before one worker, which the test plays for both providers."""
    async with serving(worker) as url, edge_before(dict.fromkeys(CATALOG.providers, url)) as running:
        yield running


async def fine(request: web.Request) -> web.Response:
    """A worker's answer to anything."""
    settled = {"x-opentoken-settled": "1000000", "x-opentoken-tokens": "10", "x-opentoken-upstream-ms": "1.5"}
    return json_response({"fine": True}, headers=settled)
