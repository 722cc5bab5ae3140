"""Prepaid credit over three edges, on real servers: it holds under concurrency, and nobody is refused what is there."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest

from services.edge.estimate import chat_pico
from shared import catalog
from shared.ids import new_id
from shared.money import PICO_PER_USD, pico_usd, usd
from shared.openai import ChatRequest
from tests import servers
from tests.e2e import stacks
from tests.e2e.raw import CHAT, CLAUDE, GEMINI, authorized, chat, envelope, post, send
from tests.e2e.stacks import ADMIN, Stack, until
from tests.servers import Server

CLIENTS, EDGES = 200, 3
TOKENS = 2_000  # of each answer, which its limit allows and no more: 0.01 USD, so 1 USD is for 99 requests
BODY = chat(max_tokens=TOKENS, messages=[{"role": "user", "content": f"[[tokens={TOKENS}]]"}])
UNLIMITED = {CLAUDE: 16_000, GEMINI: 60_000}  # tokens of answers that nearly use up what they may have without a limit
DEAR = "anthropic/claude-opus-4-7"
SPENT = {402: "insufficient_credit", 429: "spend_limit_exceeded"}
WORDS = {402: "insufficient credit balance", 429: "api key spend limit exceeded"}


@pytest.fixture(scope="module")
def edges(postgres_server: Server, rabbitmq_server: Server) -> Iterator[Stack]:
    """Three edges."""
    with (
        servers.database(postgres_server) as database_url,
        servers.vhost(rabbitmq_server) as broker_url,
        stacks.separate(database_url, broker_url, edges=EDGES) as stack,
    ):
        yield stack


def admin(stack: Stack, method: str, path: str, **body: Any) -> dict[str, Any]:
    """A call of the admin API that has to succeed."""
    billing = replace(stack, base_url=stack.billing_url)
    answer = send(billing, method, f"/admin/{path}", authorized(ADMIN), json.dumps(body).encode() if body else None)
    assert answer.status in {200, 201}, answer.body
    return answer.json


def workspace(stack: Stack, name: str, *, strict: bool = False, usd: str = "1") -> str:
    """A new workspace with that much credit."""
    admin(stack, "POST", "workspaces", name=name, id=name, strict=strict)
    top_up(stack, name, usd)
    return name


def top_up(stack: Stack, name: str, usd: str) -> None:
    admin(stack, "POST", f"workspaces/{name}/credits", amount_usd=usd, reference=new_id())


def key_of(stack: Stack, name: str, **limits: str) -> dict[str, Any]:
    return admin(stack, "POST", f"workspaces/{name}/keys", label="app", **limits)


@dataclass(frozen=True, slots=True)
class Paid:
    """A whole answer: when it was asked for, when it was read, what it cost."""

    began: float
    ended: float
    cost_pico: int


@dataclass
class Rush:
    """What many clients met. `hold_pico`: what a request holds while it runs, and must find to be let in."""

    credit_pico: int
    hold_pico: int
    answers: list[Paid] = field(default_factory=list)
    refusals: list[tuple[float, int]] = field(default_factory=list)

    @property
    def spent_pico(self) -> int:
        return sum(one.cost_pico for one in self.answers)

    @property
    def phantoms(self) -> int:
        """How many were refused though there was credit for a whole request, what was spent and held then taken off."""
        return sum(self.credit_pico - self._gone_pico(at) >= self.hold_pico for at, _ in self.refusals)

    def _gone_pico(self, at: float) -> int:
        begun = [one for one in self.answers if one.began < at]
        return sum(one.cost_pico if one.ended < at else self.hold_pico for one in begun)

    def tell(self, name: str) -> None:
        """Print what was counted."""
        sys.stdout.write(
            f"\n{name}: {len(self.answers)} answers, {len(self.refusals)} refusals, of which phantom: {self.phantoms};"
            f" left for {(self.credit_pico - self.spent_pico) / self.hold_pico:.2f} requests\n"
        )


async def rush(
    stack: Stack, key: str, credit_pico: int = PICO_PER_USD, *, strict: bool = False, request: Any = BODY
) -> Rush:
    """Clients on all edges, each of which calls until it is refused."""
    body, model = json.dumps(request).encode(), catalog.load()[request["model"]]
    hold_pico = chat_pico(ChatRequest.model_validate(request), model, len(body), strict=strict)
    seen, urls = Rush(credit_pico, hold_pico), [f"{edge.base_url}/chat/completions" for edge in stack.edges]
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    async def client(number: int) -> None:
        while True:
            began = time.monotonic()
            async with session.post(urls[number % len(urls)], data=body, headers=headers) as answer:
                told = await answer.json()
                if answer.status != 200:
                    seen.refusals.append((time.monotonic(), answer.status))
                    expected = {"message": WORDS[answer.status], "code": SPENT[answer.status]}
                    assert told == {"error": {"type": "invalid_request_error", **expected}}
                    return
                cost_pico = pico_usd(answer.headers["x-opentoken-cost"])
                seen.answers.append(Paid(began, time.monotonic(), cost_pico))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return seen


def balance_pico(stack: Stack, name: str) -> int:
    return int(stack.audit(f"/v1/workspaces/{name}/balance")["balance_pico_usd"])


@pytest.mark.long
@pytest.mark.parametrize("strict", [False, True], ids=["bounded", "strict"])
def test_many_clients_at_once_cannot_pass_a_spent_balance(edges: Stack, strict: bool) -> None:
    name = workspace(edges, f"rush-{strict}", strict=strict)
    seen = asyncio.run(rush(edges, key_of(edges, name)["secret"], strict=strict))
    seen.tell(name)
    until(lambda: balance_pico(edges, name) == PICO_PER_USD - seen.spent_pico, "all is on the books")
    assert [status for _, status in seen.refusals] == [402] * CLIENTS
    assert balance_pico(edges, name) >= (0 if strict else -EDGES * seen.hold_pico)
    assert seen.phantoms == 0


@pytest.mark.long
@pytest.mark.parametrize("model", UNLIMITED, ids=["anthropic", "google"])
def test_long_answers_to_requests_without_max_tokens_cannot_pass_a_spent_balance_either(
    edges: Stack, model: str
) -> None:
    name = workspace(edges, f"unlimited-{model.partition('/')[0]}")
    long = chat(model=model, messages=[{"role": "user", "content": f"[[tokens={UNLIMITED[model]}]]"}])
    seen = asyncio.run(rush(edges, key_of(edges, name)["secret"], request=long))
    seen.tell(name)
    until(lambda: balance_pico(edges, name) == PICO_PER_USD - seen.spent_pico, "all is on the books")
    assert balance_pico(edges, name) >= -EDGES * max(one.cost_pico for one in seen.answers)
    assert seen.phantoms == 0


@pytest.mark.long
def test_many_short_streams_without_max_tokens_are_not_refused_for_what_long_ones_would_cost(edges: Stack) -> None:
    name = workspace(edges, "streams", usd="10")
    headers = {"Authorization": f"Bearer {key_of(edges, name)['secret']}", "Content-Type": "application/json"}
    story = {"role": "user", "content": "[[tokens=24 chunks=24 chunk_delay_ms=50]]"}
    body = json.dumps(chat(model=DEAR, messages=[story], stream=True))

    async def one(number: int, session: aiohttp.ClientSession) -> bool:
        url = f"{edges.edges[number % EDGES].base_url}/chat/completions"
        async with session.post(url, data=body, headers=headers) as answer:
            return (await answer.read()).endswith(b"data: [DONE]\n\n")

    async def all_at_once() -> list[bool]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(one(number, session) for number in range(CLIENTS)))

    assert all(asyncio.run(all_at_once())), "by the longest answers that they could have had, there is credit for 24"


@pytest.mark.long
def test_a_keys_limit_holds_over_all_edges(edges: Stack) -> None:
    name, limit_pico = workspace(edges, "limited", usd="10"), PICO_PER_USD // 2
    key = key_of(edges, name, spend_limit_usd=usd(limit_pico))["secret"]
    seen = asyncio.run(rush(edges, key, limit_pico))
    seen.tell(name)
    assert [status for _, status in seen.refusals] == [429] * CLIENTS
    assert seen.spent_pico <= limit_pico + EDGES * seen.hold_pico
    assert seen.phantoms == 0
    other = key_of(edges, name)["secret"]
    assert post(edges, CHAT, BODY, key=other).status == 200, "another key of the workspace goes on"


@pytest.mark.long
def test_a_revoked_key_is_refused_by_every_edge_within_a_second(edges: Stack) -> None:
    name = workspace(edges, "revoked")
    for _ in range(5):
        revoked_within_a_second(edges, key_of(edges, name))


@pytest.mark.long
def test_credit_that_was_added_is_there_at_once_on_every_edge(edges: Stack) -> None:
    name = workspace(edges, "topped-up", usd="0.000001")
    key = key_of(edges, name)["secret"]
    asyncio.run(rush(edges, key))
    top_up(edges, name, "1")
    for edge in edges.edges:
        assert post(edge, CHAT, BODY, key=key).status == 200


@pytest.mark.long
def test_the_callers_credit_says_what_is_held(edges: Stack) -> None:
    name = workspace(edges, "held")
    key = key_of(edges, name, spend_limit_usd="0.5", limit_reset="monthly")["secret"]
    cost = post(edges, CHAT, BODY, key=key).headers["x-opentoken-cost"]
    spent = until(lambda: _credits(edges, key, cost), "it is on the books")
    assert (spent["held_usd"], spent["available_usd"]) == ("0", spent["balance_usd"]), "nothing runs"
    slow = chat(max_tokens=TOKENS, messages=[{"role": "user", "content": "[[delay_ms=2000]]"}])
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(post, edges, CHAT, slow, key=key)
        held = until(lambda: _held(edges, key), "it runs")
        assert pico_usd(held["held_usd"]) > TOKENS * 5_000_000, "the longest answer, at 5 USD per 1M tokens, and more"
        assert pico_usd(held["balance_usd"]) == pico_usd(held["held_usd"]) + pico_usd(held["available_usd"])
        second = running.result().headers["x-opentoken-cost"]
    window = until(lambda: _window(edges, key, pico_usd(cost) + pico_usd(second)), "both are on the books")
    assert window["spend_limit_usd"] == "0.5"


def _held(stack: Stack, key: str) -> Any:
    answer = send(stack, "GET", "/v1/credits", authorized(key)).json
    return answer if answer["held_usd"] != "0" else None


def _window(stack: Stack, key: str, spend_pico: int) -> Any:
    answer = send(stack, "GET", "/v1/key", authorized(key)).json
    return answer if pico_usd(answer["window_spend_usd"]) == spend_pico else None


def _credits(stack: Stack, key: str, cost: str) -> Any:
    answer = send(stack, "GET", "/v1/credits", authorized(key)).json
    return answer if pico_usd(answer["balance_usd"]) == PICO_PER_USD - pico_usd(cost) else None


@pytest.mark.faults
def test_a_killed_edge_starves_nobody_and_its_use_is_on_the_books(edges: Stack) -> None:
    name = workspace(edges, "killed")
    key = key_of(edges, name)["secret"]
    doomed = edges.services["edge-3"]
    costs = [pico_usd(post(edge, CHAT, BODY, key=key).headers["x-opentoken-cost"]) for edge in edges.edges]
    doomed.process.kill()
    try:
        until(lambda: balance_pico(edges, name) == PICO_PER_USD - sum(costs), "all is on the books")
        for _ in range(20):
            assert post(edges, CHAT, BODY, key=key).status == 200
    finally:
        doomed.start()


@pytest.mark.faults
def test_while_billing_is_away_requests_go_on_within_their_leases_and_nothing_is_lost(edges: Stack) -> None:
    name = workspace(edges, "away", usd="5")
    key = key_of(edges, name)["secret"]
    served = [pico_usd(post(edges, CHAT, BODY, key=key).headers["x-opentoken-cost"])]
    billing = edges.services["billing"]
    billing.process.kill()
    try:
        while (answer := post(edges, CHAT, BODY, key=key)).status == 200:
            served.append(pico_usd(answer.headers["x-opentoken-cost"]))
        envelope(answer, 503, "billing_unavailable", "api_error")
        assert len(served) > 3
        assert sum(served) < PICO_PER_USD
    finally:
        billing.start()
    until(lambda: balance_pico(edges, name) == 5 * PICO_PER_USD - sum(served), "all is on the books, once")
    until(lambda: post(edges, CHAT, BODY, key=key).status == 200, "and requests go on")


@pytest.mark.faults
def test_a_key_revoked_while_the_broker_restarts_is_refused_within_a_second_too(postgres_server: Server) -> None:
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(servers.rabbitmq_server())
        if broker.life is None:
            pytest.skip("this broker is not ours to kill")
        broker_url = stack.enter_context(servers.vhost(broker))
        database_url = stack.enter_context(servers.database(postgres_server))
        edges = stack.enter_context(stacks.separate(database_url, broker_url, edges=2))
        name = workspace(edges, "revoked")
        first, second = key_of(edges, name), key_of(edges, name)
        revoked_within_a_second(edges, first, broker.kill)
        revoked_within_a_second(edges, second, broker.start)


def revoked_within_a_second(edges: Stack, key: dict[str, Any], meanwhile: Callable[[], None] = lambda: None) -> None:
    """The key works on each edge; then something happens to the broker, and the key is revoked at once."""
    for edge in edges.edges:
        until(lambda: _models(edge, key).status == 200, "the key works")  # noqa: B023 - used within the round
    meanwhile()
    admin(edges, "DELETE", f"keys/{key['key_id']}")
    deadline = time.monotonic() + 1.0
    for edge in edges.edges:
        until(lambda: _models(edge, key).status == 401, "the key is refused")  # noqa: B023 - likewise
    assert time.monotonic() < deadline
    for edge in edges.edges:
        envelope(_models(edge, key), 401, "invalid_key", "authentication_error")


def _models(edge: Stack, key: dict[str, Any]) -> Any:
    return send(edge, "GET", "/v1/models", authorized(key["secret"]))
