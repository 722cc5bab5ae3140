"""A limited key at a running edge: what its answers tell, what is refused, and how the official SDK takes it."""

from collections.abc import AsyncIterator
from functools import partial
from time import monotonic_ns
from typing import Any

import openai
import pytest
import pytest_asyncio
from aiohttp import web

from services.edge import accounts, app
from services.edge.rates import Rates
from services.simulator.app import build_app as build_simulator
from services.workers.host import build_app as build_worker
from shared.bus.local import LocalBus
from shared.http import json_response, listening
from tests.servers.process import free_ports
from tests.unit.edge.running import DONE, HELLO, KEY, Edge, digest, edge, edge_before, fine, standing
from tests.unit.workers.running import CATALOG, PROVIDERS, TOKEN, Books, chat, supplier

STREAM = HELLO | {"stream": True}
REMAINING = "x-ratelimit-remaining-{}"


def limit(running: Edge, **account: Any) -> None:
    running.bank.known[digest(KEY)] = standing(**account)


async def test_a_key_without_limits_reads_no_rate_limit_headers() -> None:
    async with edge(fine) as running:
        answer = await running.ask(HELLO)
    assert not [name for name in answer.headers if name.lower().startswith("x-ratelimit")]


@pytest.mark.parametrize("body", [HELLO, STREAM], ids=["whole", "streamed"])
async def test_every_answer_of_a_limited_key_says_what_is_left_until_it_is_refused(body: Any) -> None:
    async def worker(request: web.Request) -> web.StreamResponse:
        if not (await request.json()).get("stream"):
            return await fine(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(DONE + b": settled 1 10\n\n")
        return response

    async with edge(worker) as running:
        limit(running, requests_per_minute=2, tokens_per_minute=1000)
        left = [(await running.ask(body)).headers for _ in range(2)]
        refused = await running.ask(body)
    assert [headers[REMAINING.format("requests")] for headers in left] == ["1", "0"]
    assert int(left[1][REMAINING.format("tokens")]) > 940
    assert (refused.status, refused.code, refused.json["error"]["type"]) == (429, "rate_limit_exceeded", "requests")
    assert 0 < int(refused.headers["Retry-After"]) <= 30
    assert 0 < int(refused.headers["retry-after-ms"]) <= 30_000
    assert refused.headers["x-ratelimit-limit-requests"] == "2"


async def test_each_of_several_edges_lets_its_share_of_the_limit_through() -> None:
    async with edge(fine) as running:
        running.bank.edges = 3
        limit(running, requests_per_minute=6)
        first, second, refused = [await running.ask(HELLO) for _ in range(3)]
    assert [first.headers[REMAINING.format("requests")], second.status, refused.status] == ["1", 200, 429]
    assert refused.headers["x-ratelimit-limit-requests"] == "6"


async def test_a_request_that_the_worker_refused_gives_its_tokens_back_and_says_what_is_left() -> None:
    async def busy(_: web.Request) -> web.Response:
        return json_response({"error": {"message": "busy", "type": "upstream_error", "code": None}}, 429)

    async with edge(busy) as running:
        limit(running, tokens_per_minute=1000)
        first, second = [await running.ask(HELLO | {"max_tokens": 900}) for _ in range(2)]
    assert (first.status, second.status) == (429, 429)
    assert second.headers[REMAINING.format("tokens")] == first.headers[REMAINING.format("tokens")]
    assert int(first.headers[REMAINING.format("tokens")]) < 100


async def test_a_request_that_no_worker_takes_gives_its_tokens_back() -> None:
    (port,) = free_ports(1)
    async with edge_before(dict.fromkeys(CATALOG.providers, f"http://127.0.0.1:{port}")) as running:
        limit(running, tokens_per_minute=1000)
        answers = [await running.ask(HELLO | {"max_tokens": 900}) for _ in range(2)]
    assert [(answer.status, answer.code) for answer in answers] == [(503, "no_supplier")] * 2


async def test_a_spent_limit_is_not_tried_again_by_the_official_sdk() -> None:
    async with edge(fine) as running:
        limit(running, spend_limit_pico="5", window_spend_pico="5")
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=1) as client:
            with pytest.raises(openai.RateLimitError) as refused:
                await client.chat.completions.create(**HELLO)
    assert refused.value.code == "spend_limit_exceeded"
    assert refused.value.request.headers["x-stainless-retry-count"] == "0"


async def test_the_rate_is_the_last_gate_before_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "FRESH_S", 0.0)
    spent: dict[str, Any] = {"spend_limit_pico": "5", "window_spend_pico": "5"}
    async with edge(fine) as running:
        limit(running, requests_per_minute=1)
        assert (await running.ask(HELLO)).status == 200
        assert (await running.ask(HELLO)).code == "rate_limit_exceeded"
        assert (await running.ask(HELLO | {"n": 2})).code == "unsupported_parameter"
        limit(running, requests_per_minute=1, **spent)
        assert (await running.ask(HELLO)).code == "spend_limit_exceeded"
    async with edge(fine) as running:
        limit(running, requests_per_minute=1, **spent, balance_pico="0")
        assert (await running.ask(HELLO)).code == "insufficient_credit"


class Clock:
    """Stands still for so many looks at it, then runs: so that no machine is too slow to be refused."""

    def __init__(self, looks: int) -> None:
        self._looks, self._since_ns = looks, 0

    def __call__(self) -> int:
        self._looks -= 1
        if self._looks >= 0:
            self._since_ns = monotonic_ns()
        return monotonic_ns() - self._since_ns


@pytest_asyncio.fixture
async def whole(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Edge]:
    """An edge before a real worker and the simulator; its clock stands still for three requests."""
    monkeypatch.setattr(app, "Rates", partial(Rates, Clock(looks=3)))
    bus = LocalBus()
    async with Books().kept_by(bus), listening(build_simulator(), "127.0.0.1", 0) as simulator:
        suppliers = [supplier("anthropic", 1, "simulated", f"http://127.0.0.1:{simulator}")]
        worker = build_worker(PROVIDERS["anthropic"], suppliers, CATALOG, TOKEN, lambda: bus)
        async with (
            listening(worker, "127.0.0.1", 0) as port,
            edge_before({"anthropic": f"http://127.0.0.1:{port}"}) as running,
        ):
            yield running


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_the_official_sdk_waits_as_long_as_it_is_told_and_tokens_count_as_they_were_used(
    whole: Edge, stream: bool
) -> None:
    limit(whole, tokens_per_minute=6000)
    greedy: Any = chat("anthropic", "Hello [[tokens=6040]]", max_tokens=64_000, stream=stream)
    modest: Any = chat("anthropic", "Hello")
    async with openai.AsyncOpenAI(base_url=f"{whole.url}/v1", api_key=KEY, max_retries=0) as client:
        answer = await client.chat.completions.create(**greedy)
        if stream:
            assert [chunk async for chunk in answer][-1].usage.completion_tokens == 6040
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(**modest)
        assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "tokens")
        assert 0 < int(refused.value.response.headers["retry-after-ms"]) <= 2000
        patient = client.with_options(max_retries=2)
        raw = await patient.chat.completions.with_raw_response.create(**modest)
    assert raw.retries_taken == 1
    assert int(raw.headers["x-ratelimit-limit-tokens"]) == 6000
