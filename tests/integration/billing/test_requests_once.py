"""Two edges before one billing service: a request under an Idempotency-Key runs once, whichever of them it meets."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from sqlalchemy import Engine, update

from services.billing import idempotency as keys
from services.billing import migrations
from services.billing.database import connect, writing
from services.billing.tables import idempotency_key
from services.edge import idempotency
from services.edge.app import build_app as build_edge
from services.edge.billing import Billing
from services.edge.credit import Credit
from services.simulator.app import build_app as build_simulator
from services.workers.host import build_app as build_worker
from shared.bus.local import LocalBus
from shared.errors import BillingUnavailable
from shared.http import listening
from shared.ids import new_id
from shared.openai import MAX_KEPT_BYTES
from tests.integration.billing.books import books
from tests.integration.billing.service import INTERNAL, Service, running
from tests.unit.edge.running import KEY, serving
from tests.unit.workers.running import CATALOG, DEADLINE_S, MODELS, PROVIDERS, Answer, supplier, until

HERE = "127.0.0.1"
CHAT = "/v1/chat/completions"


def chat(prompt: str = "Hello", provider: str = "anthropic", **members: Any) -> dict[str, Any]:
    return {"model": MODELS[provider], "messages": [{"role": "user", "content": prompt}], **members}


@dataclass(frozen=True, slots=True)
class Edges:
    """Two edges; a worker for one provider, before its simulator, and one for the other that answers nothing."""

    urls: list[str]
    simulator_url: str
    session: aiohttp.ClientSession
    service: Service
    engine: Engine
    silent: list[web.Request]

    async def ask(self, body: Any, key: str | None, edge: int = 0, secret: str = KEY, **more: Any) -> Answer:
        headers = {"Authorization": f"Bearer {secret}"} | ({} if key is None else {"Idempotency-Key": key})
        async with self.session.post(self.urls[edge] + CHAT, json=body, headers=headers, **more) as response:
            return Answer(response.status, response.headers, await response.read())

    async def settled(self, body: Any, key: str) -> Answer:
        """The first answer that does not ask for patience."""

        async def patient() -> Answer | None:
            answer = await self.ask(body, key, edge=1)
            return None if "Retry-After" in answer.headers else answer

        return await until(patient, "the first request has ended")

    async def served(self) -> int:
        """How often the provider was called."""
        async with self.session.get(f"{self.simulator_url}/simulator/served") as response:
            return len((await response.json())["served"])

    def debits(self) -> list[str]:
        """The requests that were billed."""
        return [entry["request_id"] for entry in books(self.engine)["ledger_entry"] if entry["request_id"]]


@pytest_asyncio.fixture
async def edges(tmp_path: Path) -> AsyncIterator[Edges]:
    """On SQLite: what differs on PostgreSQL is tried where claims are."""
    engine = connect(f"sqlite:///{tmp_path}/ledger.db")
    migrations.upgrade(engine)
    async with edges_on(engine) as edges:
        yield edges
    engine.dispose()


@contextlib.asynccontextmanager
async def edges_on(engine: Engine) -> AsyncIterator[Edges]:
    bus, silent = LocalBus(), list[web.Request]()

    async def silence(request: web.Request) -> web.StreamResponse:
        silent.append(request)
        await asyncio.Event().wait()
        return web.Response()

    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        database_url = engine.url.render_as_string(hide_password=False)
        service = await enter(running(database_url, bus, bootstrap_key=KEY))
        simulator_url = f"http://{HERE}:{await enter(listening(build_simulator(), HERE, 0))}"
        suppliers = [supplier("anthropic", 1, "simulated", simulator_url)]
        worker = build_worker(PROVIDERS["anthropic"], suppliers, CATALOG, INTERNAL, lambda: bus)
        workers = {
            "anthropic": f"http://{HERE}:{await enter(listening(worker, HERE, 0))}",
            "google": await enter(serving(silence)),
        }
        urls = []
        for _ in range(2):
            edge = build_edge(CATALOG, INTERNAL, workers, str(service.client.make_url("")), lambda: bus)
            urls.append(f"http://{HERE}:{await enter(listening(edge, HERE, 0, grace_s=1.0))}")
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        session = await enter(aiohttp.ClientSession(timeout=timeout))
        yield Edges(urls, simulator_url, session, service, engine, silent)


async def test_the_first_answer_is_given_again_byte_by_byte_at_every_edge_and_billed_once(edges: Edges) -> None:
    key = "k" * 255
    first, again = await edges.ask(chat(), key), await edges.ask(chat(), key, edge=1)
    assert (first.status, again.status, again.body) == (200, 200, first.body)
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    assert (again.headers["x-opentoken-replayed"], again.headers["x-opentoken-cost"]) == ("true", "0")
    assert "x-opentoken-replayed" not in first.headers
    assert edges.debits() == [first.headers["x-request-id"]]
    assert await edges.served() == 1
    without = [await edges.ask(chat(), None) for _ in range(2)]
    assert len({answer.headers["x-request-id"] for answer in [first, *without]}) == 3


async def test_of_many_requests_at_once_one_runs_and_the_others_wait_or_get_its_answer(engine: Engine) -> None:
    slow = chat("Hello [[delay_ms=200]]")
    async with edges_on(engine) as edges:
        answers = await asyncio.gather(*(edges.ask(slow, "key", edge=number % 2) for number in range(30)))
        whole = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status != 200]
        assert {answer.body for answer in whole} == {whole[0].body}
        assert {(answer.status, answer.code, answer.headers["Retry-After"]) for answer in refused} == {
            (409, "idempotency_conflict", "2")
        }
        assert await edges.served() == 1
        assert edges.debits() == [whole[0].headers["x-request-id"]]


async def test_another_request_under_the_same_key_is_a_conflict_that_no_sdk_retries(edges: Edges) -> None:
    await edges.ask(chat(), "key")
    other = await edges.ask(chat(temperature=1), "key")
    assert (other.status, other.code, other.json["error"]["param"]) == (409, "idempotency_conflict", "Idempotency-Key")
    assert other.headers["x-should-retry"] == "false"
    assert (await edges.ask(chat("Hi"), "another")).status == 200


async def test_a_request_that_failed_is_run_again(edges: Edges) -> None:
    for number in (1, 2):
        refused = await edges.ask(chat("[[status=400]]"), "key")
        assert (refused.status, await edges.served()) == (400, number)
    assert (await edges.ask(chat(), "key")).status == 200, "a key that is free takes any request"
    assert len(edges.debits()) == 1


async def test_a_request_that_was_not_admitted_leaves_its_key_free(edges: Edges) -> None:
    await edges.service.post("/admin/workspaces", {"name": "Poor", "id": "poor"})
    made = await edges.service.post("/admin/workspaces/poor/keys", {"label": "app"})
    for edge in (0, 1):
        assert (await edges.ask(chat(), "key", edge, made["secret"])).code == "insufficient_credit"


async def test_a_request_that_billing_could_not_be_asked_credit_for_leaves_its_key_free(
    edges: Edges, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise BillingUnavailable

    with monkeypatch.context() as outage:
        outage.setattr(Credit, "admit", away)
        refused = await edges.ask(chat(), "key")
        assert (refused.status, refused.code) == (503, "billing_unavailable")
    assert (await edges.settled(chat(), "key")).status == 200
    assert len(edges.debits()) == 1


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_that_is_empty_or_too_long_is_a_400_that_names_the_header(edges: Edges, key: str) -> None:
    answer = await edges.ask(chat(), key)
    assert (answer.status, answer.json["error"]["param"]) == (400, "Idempotency-Key")


async def test_a_client_that_left_finds_its_answer_when_it_asks_again(edges: Edges) -> None:
    slow = chat("Hello [[delay_ms=400]]")
    with pytest.raises(TimeoutError):
        await edges.ask(slow, "key", timeout=aiohttp.ClientTimeout(total=0.2))
    assert (await edges.ask(slow, "key", edge=1)).status == 409
    again = await edges.settled(slow, "key")
    assert (again.status, again.headers["x-opentoken-replayed"]) == (200, "true")
    assert edges.debits() == [again.headers["x-request-id"]]
    record = books(edges.engine)["usage_record"][0]
    assert record["outcome"] == "completed"
    assert await edges.served() == 1


async def test_a_stream_is_not_sent_again_and_the_refusal_names_its_receipt(edges: Edges) -> None:
    first = await edges.ask(chat(stream=True), "key")
    again = await edges.settled(chat(stream=True), "key")
    assert first.body.endswith(b"data: [DONE]\n\n")
    assert (again.status, again.code) == (409, "idempotency_conflict")
    assert f"/v1/generations/{first.headers['x-request-id']}" in again.json["error"]["message"]
    assert again.headers["x-should-retry"] == "false"
    assert edges.debits() == [first.headers["x-request-id"]]


async def test_a_stream_that_broke_cost_nothing_and_is_run_again(edges: Edges) -> None:
    broken = chat("Hello [[midstream_error]]", stream=True)
    assert b"stream interrupted" in (await edges.ask(broken, "key")).body
    assert b"stream interrupted" in (await edges.settled(broken, "key")).body
    assert await edges.served() == 2
    assert not edges.debits()


async def test_a_stream_that_its_client_left_is_billed_once(edges: Edges) -> None:
    slow = chat("Tell me a story [[chunks=50 chunk_delay_ms=50]]", stream=True)
    with pytest.raises(TimeoutError):
        await edges.ask(slow, "key", timeout=aiohttp.ClientTimeout(total=0.5))
    assert (await edges.settled(slow, "key")).code == "idempotency_conflict"
    assert len(edges.debits()) == 1


async def test_an_answer_too_large_to_keep_is_billed_once_and_its_repetition_is_told_so_at_once(
    edges: Edges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MAX_KEPT_BYTES", 10)
    first, again = await edges.ask(chat(), "key"), await edges.ask(chat(), "key")
    assert (first.status, again.status, again.headers["x-should-retry"]) == (200, 409, "false")
    assert first.headers["x-request-id"] in again.json["error"]["message"]


async def test_embeddings_of_as_many_texts_as_a_request_may_have_are_kept(edges: Edges) -> None:
    """As base64, whose size is a matter of arithmetic: 2,048 entries of 768 numbers."""
    entry = {"object": "embedding", "index": 2047, "embedding": base64.b64encode(bytes(768 * 4)).decode()}
    answer = json.dumps({"object": "list", "model": "google/text-embedding-004", "data": [entry] * 2048}).encode()
    billing = Billing(edges.session, str(edges.service.client.make_url("")), INTERNAL)
    claim = {"workspace_id": "demo", "key_digest": "a" * 64, "body_digest": "b" * 64, "stream": False}
    first = new_id()
    assert (await billing.claim(claim | {"request_id": first}))["state"] == "free"
    assert MAX_KEPT_BYTES > len(answer) > 8_000_000
    await billing.keep(first, answer)
    assert (await billing.claim(claim | {"request_id": new_id()}))["answer"].encode() == answer


async def test_a_request_whose_edge_was_lost_keeps_its_key_and_a_new_key_runs_it_anew(edges: Edges) -> None:
    body, started = chat("Hello", "google"), asyncio.create_task(edges.ask(chat("Hello", "google"), "key"))
    await until(lambda: edges.silent, "the request is at its worker")
    with writing(edges.engine) as connection:
        connection.execute(update(idempotency_key).values(claimed_at=datetime.now(UTC) - keys.HELD))
    again = await edges.ask(body, "key", edge=1)
    assert (again.status, again.code, again.headers["x-should-retry"]) == (409, "idempotency_conflict", "false")
    assert "use a new key" in again.json["error"]["message"]
    assert not books(edges.engine)["usage_record"], "what it cost is not known yet"
    anew = asyncio.create_task(edges.ask(body, "another", edge=1))
    await until(lambda: len(edges.silent) == 2, "it is run anew")
    for task in (started, anew):
        task.cancel()
    await asyncio.gather(started, anew, return_exceptions=True)
    for one in edges.silent:
        assert one.transport is not None
        one.transport.abort()  # both edges see their worker lost, so nothing is left to wait for


async def test_a_stream_whose_client_left_before_it_was_sent_to_a_worker_leaves_its_key_free(
    edges: Edges, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = asyncio.Event()

    async def never(*_: Any) -> None:
        waiting.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(Credit, "admit", never)
        left = asyncio.create_task(edges.ask(chat(stream=True), "key"))
        await waiting.wait()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
    assert (await edges.settled(chat(stream=True), "key")).status == 200
    assert await edges.served() == 1


async def test_without_billing_nothing_runs_under_a_key(edges: Edges) -> None:
    await edges.ask(chat(), None)
    await edges.service.client.server.close()
    answer = await edges.ask(chat(), new_id())
    assert (answer.status, answer.code) == (503, "billing_unavailable")
    assert await edges.served() == 1
