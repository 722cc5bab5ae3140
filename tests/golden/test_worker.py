"""Every golden exchange over HTTP: a client, a running worker, and a provider that answers as the golden's did.

The books are held open while each answer is read, so it is seen that no end leaves before its usage is durable.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from services.workers import upstream
from services.workers.provider import Supplier
from shared.events import UsageRecorded
from shared.http import listening
from shared.money import Tokens
from tests.golden.exchanges import Exchange, comparable, exchanges, said
from tests.golden.playing import PROVIDERS
from tests.golden.test_pure import floats, without_hash
from tests.unit.workers.running import Answer, Worker, until, worker

FOUND = [one for name in PROVIDERS for one in exchanges(name) if one.upstream]
ALL = [pytest.param(one, id=one.name) for one in FOUND]
PIECE_SIZES = (1, 7, 64, 3, 500)  # inside a line, a character, a field's name; and several events at once
DONE = b"data: [DONE]\n\n"


@pytest.fixture(autouse=True)
def retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "RETRY_PAUSE_S", 0.001)


@dataclass
class Upstream:
    """Plays a golden's upstream answers in order, and keeps what it was asked."""

    exchange: Exchange
    preparing: bool = False
    calls: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.preparing and request.path.endswith("/cachedContents"):
            return web.json_response({"name": self.exchange.content["precondition"]["cached_content"]})
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.calls.append((request.method, request.path_qs, headers, await request.json()))
        played = self.played(-1 if self.preparing else len(self.calls) - 1)["response"]
        response = web.StreamResponse(status=played["status"], headers=played["headers"])
        await response.prepare(request)
        await self._send(response, self.exchange.bytes_of(played))
        if "without terminating" in self.played(len(self.calls) - 1).get("transport", ""):
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write_eof()
        return response

    def played(self, number: int) -> dict[str, Any]:
        """The golden's call of that number; the last one may be repeated."""
        script = self.exchange.upstream
        assert number < len(script) or script[-1].get("repeat") == "any", "a call that the golden does not make"
        return script[min(number, len(script) - 1)]

    async def _send(self, response: web.StreamResponse, data: bytes) -> None:
        for size in cycle(PIECE_SIZES):
            piece, data = data[:size], data[size:]
            if not piece:
                return
            await response.write(piece)
            await asyncio.sleep(0)  # lets the piece leave by itself


@contextlib.asynccontextmanager
async def playing(exchange: Exchange) -> AsyncIterator[tuple[Worker, Upstream]]:
    """A worker whose provider plays the golden."""
    upstream_ = Upstream(exchange)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", upstream_.answer)
    name = exchange.path.parent.name
    async with listening(app, "127.0.0.1", 0) as port:
        address = f"http://127.0.0.1:{port}"
        async with worker(PROVIDERS[name], [supplier(name, address)]) as running:
            if "precondition" in exchange.content:
                await prepare(running, upstream_)
            yield running, upstream_


async def prepare(running: Worker, upstream_: Upstream) -> None:
    """Let an earlier request of the same workspace make the cache that the golden reads."""
    upstream_.preparing = True
    await running.ask(upstream_.exchange.request)
    upstream_.preparing = False
    upstream_.calls.clear()
    running.books.records.clear()


def supplier(name: str, address: str) -> Supplier:
    if name == "anthropic":
        return Supplier("golden", address, {"x-api-key": "$ANTHROPIC_API_KEY"})
    return Supplier("golden", f"{address}/v1beta", {"x-goog-api-key": "$GEMINI_API_KEY"})


async def read(running: Worker, exchange: Exchange) -> Answer:
    """The answer, having seen that its end waited for the record."""
    running.books.released.clear()
    seen, began = bytearray(), asyncio.Event()
    reading = asyncio.create_task(_read(running, exchange, seen, began))
    try:
        await until(lambda: running.books.records or reading.done(), "the usage is published")
        await running.answers()
        assert not reading.done(), "the answer ended before its usage was durable"
        assert b"[DONE]" not in seen
        assert b'"usage"' not in seen
        assert began.is_set() == exchange.speaks_early, "only a stream's words leave before its usage is durable"
    finally:
        running.books.released.set()
    return await reading


async def _read(running: Worker, exchange: Exchange, seen: bytearray, began: asyncio.Event) -> Answer:
    async with running.post(exchange.request, exchange.content["client"]["path"]) as response:
        began.set()
        async for piece in response.content.iter_any():
            seen.extend(piece)
        return Answer(response.status, response.headers, bytes(seen))


@pytest.mark.parametrize("exchange", ALL)
async def test_a_client_reads_the_golden_answer_and_exactly_that_stands_on_the_books(exchange: Exchange) -> None:
    async with playing(exchange) as (running, asked):
        answer = await read(running, exchange)
        await running.answers()
        (record,) = running.books.records
    check_calls(exchange, asked)
    assert answer.status == exchange.answer["status"]
    assert answer.headers["x-request-id"] == record.request_id
    check_body(exchange, answer)
    check_record(exchange, record)
    check_settled(exchange, answer, record)
    assert [attempt.status for attempt in record.attempts] == [
        asked.played(number)["response"]["status"] for number in range(len(asked.calls))
    ]


def check_calls(exchange: Exchange, asked: Upstream) -> None:
    assert len(asked.calls) >= len(exchange.upstream)
    for number, (method, path, headers, body) in enumerate(asked.calls):
        expected = asked.played(number)
        url = urlsplit(expected["url"])
        assert (method, path) == (expected["method"], f"{url.path}?{url.query}".rstrip("?"))
        assert headers.items() >= expected["headers"].items()
        assert without_hash(body) == without_hash(expected["request"])


def check_body(exchange: Exchange, answer: Answer) -> None:
    expected = exchange.answer
    if exchange.streamed:
        assert said(answer.body) == said(exchange.bytes_of(expected))
        return
    kept = {name: value for name, value in expected["headers"].items() if name != "content-type"}
    assert {name: answer.headers.get(name) for name in kept} == kept
    assert answer.headers.get("retry-after") == kept.get("retry-after")
    assert answer.headers["content-type"].startswith("application/json")
    body, golden = without_vectors(answer.json), without_vectors(expected["body"])
    assert comparable(body) == comparable(golden)
    for mine, theirs in zip(answer.json.get("data", []), expected["body"].get("data", []), strict=True):
        assert floats(mine["embedding"]) == pytest.approx(floats(theirs["embedding"]), abs=1e-6)


def without_vectors(body: Any) -> Any:
    if "data" not in body:
        return body
    return body | {"data": [{**item, "embedding": None} for item in body["data"]]}


def check_record(exchange: Exchange, record: UsageRecorded) -> None:
    golden = exchange.record
    assert record.cost == record.owed
    assert (record.workspace_id, record.key_id, record.lease_id) == ("w", "k", "lease-1")
    if golden is None:
        assert (record.outcome, record.cost) == (failed_outcome(exchange), 0)
        return
    said_by_both = {
        "provider", "model", "upstream_model", "endpoint", "stream", "outcome", "finish_reason",
        "native_finish_reason", "upstream_request_id",
    }  # fmt: skip
    assert record.model_dump(include=said_by_both) == {name: golden[name] for name in said_by_both}
    assert record.tokens.model_dump() == golden["tokens"]
    rates = record.rates_pico_usd_per_token.model_dump()
    assert rates.items() >= golden["rates_pico_usd_per_token"].items()
    assert record.cost == golden["cost_pico_usd"]["total"]
    assert record.usage_source == "reported"
    assert record.first_byte_ms is not None


def failed_outcome(exchange: Exchange) -> str:
    """The policy's word for a golden whose record is at 0."""
    if exchange.streamed:
        return "upstream_interrupted"
    return "upstream_refused" if 400 <= exchange.answer["status"] < 500 else "upstream_failed"


def check_settled(exchange: Exchange, answer: Answer, record: UsageRecorded) -> None:
    tokens = Tokens(**record.tokens.model_dump()).total if record.outcome == "completed" else 0
    if exchange.streamed:
        assert answer.body.endswith(DONE + b": settled %d %d\n\n" % (record.cost, tokens))
        assert answer.body.count(DONE) == 1
    elif answer.status == 200:
        assert answer.headers["x-opentoken-settled"] == record.cost_pico_usd
        assert answer.headers["x-opentoken-tokens"] == str(tokens)
    else:
        assert "x-opentoken-settled" not in answer.headers


def test_the_goldens_hold_what_can_go_wrong_as_well() -> None:
    statuses = {one.answer["status"] for one in FOUND}
    assert statuses >= {200, 400, 429, 502, 503}
    assert json.dumps([one.upstream for one in FOUND]).count('"transport"') >= 2
