"""Every golden through the whole gateway: asked of the edge, answered through its worker, and read off the books.

One gateway, on one ledger, plays them all; before each the workers are made to forget the one before.
"""

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr

from services.billing import migrations
from services.billing.app import build_app as build_billing
from services.billing.database import connect
from services.billing.settings import BillingSettings
from services.edge.app import build_app as build_edge
from services.workers import upstream
from services.workers.host import HOST
from services.workers.host import build_app as build_worker
from shared.bus.local import LocalBus
from shared.http import listening
from shared.money import pico_usd
from tests.golden.exchanges import Exchange, exchanges
from tests.golden.playing import CATALOG, PROVIDERS
from tests.golden.test_worker import Upstream, check_body, check_calls, failed_outcome, supplier
from tests.unit.workers.running import DEADLINE_S, TOKEN, Answer, until

KEY = "sk-optk-GoldenTests1-" + "k" * 43
ALL = [pytest.param(one, id=one.name) for name in (*PROVIDERS, "openai") for one in exchanges(name)]
SAID_BY_BOTH = (
    "provider", "model", "upstream_model", "endpoint", "stream", "outcome", "finish_reason",
    "native_finish_reason", "upstream_request_id", "tokens",
)  # fmt: skip


@pytest.fixture(autouse=True)
def retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "RETRY_PAUSE_S", 0.001)


@dataclass
class Gateway:
    """A running gateway, and a client that knows its edge alone."""

    url: str
    session: aiohttp.ClientSession
    workers: list[web.Application]
    playing: Upstream | None = None

    async def upstream(self, request: web.Request) -> web.StreamResponse:
        """Every provider."""
        assert self.playing is not None
        return await self.playing.answer(request)

    async def play(self, exchange: Exchange) -> Upstream:
        """Let the providers play this golden, as if nothing had been before it but what it says itself."""
        for worker in self.workers:
            worker[HOST].upstream.breakers.clear()
            worker[HOST].upstream.memory._values.clear()
        self.playing = Upstream(exchange)
        if "precondition" in exchange.content:
            self.playing.preparing = True
            await self.ask("POST", exchange.content["client"]["path"], exchange.request)
            self.playing.preparing = False
            self.playing.calls.clear()
        return self.playing

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        data = None if body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with self.session.request(method, self.url + path, data=data, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def balance_pico(self) -> int:
        return pico_usd((await self.ask("GET", "/v1/credits")).json["balance_usd"])


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    bus, timeout = LocalBus(), aiohttp.ClientTimeout(total=DEADLINE_S)
    billing = build_billing(_settings(tmp_path_factory.mktemp("ledger")), bus)
    providers = web.Application()
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        made = Gateway("", session, [])
        providers.router.add_route("*", "/{path:.*}", made.upstream)
        urls = {"billing": await _listen(stack, billing), "upstream": await _listen(stack, providers)}
        for name, provider in PROVIDERS.items():
            suppliers = [supplier(name, urls["upstream"])]
            made.workers.append(build_worker(provider, suppliers, CATALOG, TOKEN, lambda: bus))
            urls[name] = await _listen(stack, made.workers[-1])
        edge = build_edge(CATALOG, TOKEN, {name: urls[name] for name in PROVIDERS}, urls["billing"], lambda: bus)
        made.url = await _listen(stack, edge)
        await until(lambda: bus.connected, "billing consumes")
        yield made


def _settings(folder: Path) -> BillingSettings:
    url = f"sqlite:///{folder}/ledger.db"
    engine = connect(url)
    migrations.upgrade(engine)
    engine.dispose()
    token = SecretStr(TOKEN)
    return BillingSettings(
        database_url=SecretStr(url),
        internal_token=token,
        admin_token=token,
        auditor_token=token,
        bootstrap_key=SecretStr(KEY),
    )


async def _listen(stack: contextlib.AsyncExitStack, app: web.Application) -> str:
    return f"http://127.0.0.1:{await stack.enter_async_context(listening(app, '127.0.0.1', 0))}"


@pytest.mark.parametrize("exchange", ALL)
async def test_a_golden_asked_of_the_edge_is_answered_billed_and_receipted_as_it_says(
    gateway: Gateway, exchange: Exchange
) -> None:
    playing, client = await gateway.play(exchange), exchange.content["client"]
    before_pico = await gateway.balance_pico()
    answer = await gateway.ask(client["method"], client["path"], client["request"])
    assert answer.status == exchange.answer["status"]
    assert b": settled" not in answer.body, "the mark is between the worker and the edge"
    receipt = await gateway.ask("GET", f"/v1/generations/{answer.headers['x-request-id']}")
    if exchange.upstream:
        check_body(exchange, answer)
        check_calls(exchange, playing)
        check_receipt(exchange, answer, receipt.json)
    else:
        assert says(answer.json, exchange.answer["body"])
        assert receipt.status == 404, "what never reached a provider leaves no record"
    cost_pico = int(receipt.json.get("cost_pico_usd", 0))
    assert before_pico - await gateway.balance_pico() == cost_pico


def says(body: Any, golden: Any) -> bool:
    """Whether our own answer says all that the golden does; it may say more (an error's `param`, later models)."""
    if isinstance(golden, dict):
        return all(name in body and says(body[name], value) for name, value in golden.items())
    if isinstance(golden, list):
        return all(any(says(mine, theirs) for mine in body) for theirs in golden)
    return bool(body == golden)


def check_receipt(exchange: Exchange, answer: Answer, receipt: dict[str, Any]) -> None:
    golden = exchange.record
    assert [attempt["supplier"] for attempt in receipt["attempts"]] == ["golden"] * len(receipt["attempts"])
    if golden is None:
        assert (receipt["outcome"], receipt["cost_pico_usd"]) == (failed_outcome(exchange), "0")
        assert receipt["debit"] is None
        return
    assert {name: receipt[name] for name in SAID_BY_BOTH} == {name: golden[name] for name in SAID_BY_BOTH}
    assert receipt["usage_source"] == "reported"
    cost_pico = golden["cost_pico_usd"]["total"]
    assert receipt["cost_pico_usd"] == str(cost_pico)
    assert receipt["debit"]["amount_pico_usd"] == str(-cost_pico)
    if not exchange.streamed:
        assert pico_usd(answer.headers["x-opentoken-cost"]) == cost_pico
