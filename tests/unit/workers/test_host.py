"""What a worker asks of whoever calls it, and what it refuses to start."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from services.workers.host import build_app
from shared.bus.local import LocalBus
from shared.drain import BREAK_OFF
from shared.events import UsageRecorded, decode
from shared.http import listening
from shared.outbox import READY_PERCENT
from shared.spool import Spool
from tests.unit.workers.running import (
    CATALOG,
    PROVIDERS,
    TOKEN,
    Books,
    Running,
    Simulator,
    Worker,
    chat,
    provider_that,
    supplier,
    until,
)
from tests.unit.workers.running import worker as worker_of

BOTH = pytest.mark.parametrize("name", ["anthropic", "google"])
EITHER_WAY = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.mark.parametrize(
    ("authorization", "code"), [(None, "missing_auth"), ("Bearer sk-optk-a-clients-own", "invalid_key")]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", BREAK_OFF])
async def test_nobody_without_the_internal_token_reaches_a_provider(
    running: Running, simulator: Simulator, authorization: str | None, code: str, path: str
) -> None:
    async with running("google") as worker:
        answer = await worker.ask(chat("google", "Hi"), path, Authorization=authorization)
        assert (answer.status, answer.code) == (401, code)
        assert not worker.books.records
    assert await simulator.served() == []


@pytest.mark.parametrize("missing", ["x_request_id", "x_opentoken_workspace", "x_opentoken_key"])
async def test_a_request_that_nobody_could_be_billed_for_is_refused(
    running: Running, simulator: Simulator, missing: str
) -> None:
    async with running("anthropic") as worker:
        given: dict[str, Any] = {missing.replace("_", "-"): None}
        answer = await worker.ask(chat("anthropic", "Hi"), **given)
    assert answer.status == 400
    assert missing.replace("_", "-") in answer.json["error"]["message"].lower()
    assert await simulator.served() == []


async def test_a_deadline_that_is_no_number_is_a_400(running: Running) -> None:
    async with running("anthropic") as worker:
        answer = await worker.ask(chat("anthropic", "Hi"), x_opentoken_deadline_ms="soon")
    assert answer.status == 400


async def test_nothing_is_started_while_usage_could_not_be_made_durable(simulator: Simulator, tmp_path: Path) -> None:
    for spool in (None, Spool(tmp_path, max_bytes=0)):
        app = build_app(
            PROVIDERS["google"], [supplier("google", 1, "k", simulator.url)], CATALOG, TOKEN, LocalBus, spool
        )
        async with listening(app, "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
            worker = Worker(f"http://127.0.0.1:{port}", session, Books(), app)
            answer = await worker.ask(chat("google", "Hi"))
            assert (answer.status, answer.code) == (503, "billing_unavailable")
            assert int(answer.headers["Retry-After"]) > 0
            async with session.get(f"{worker.url}/ready") as ready:
                assert ready.status == 503
                assert (await ready.json())["checks"]["usage"] != "ok"
    assert await simulator.served() == []


@EITHER_WAY
async def test_answers_go_on_while_the_bus_is_away_and_their_usage_waits_in_the_spool(
    simulator: Simulator, tmp_path: Path, stream: bool
) -> None:
    spool = Spool(tmp_path, max_bytes=100_000)
    app = build_app(PROVIDERS["google"], [supplier("google", 1, "k", simulator.url)], CATALOG, TOKEN, LocalBus, spool)
    async with listening(app, "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        worker = Worker(f"http://127.0.0.1:{port}", session, Books(), app)
        answer = await worker.ask(chat("google", "Hi", stream=stream))
        ((_, waiting),) = await spool.oldest()
    (record,) = decode(b"[" + waiting.body + b"]")
    assert answer.status == 200
    assert isinstance(record, UsageRecorded)
    assert record.request_id == answer.headers["x-request-id"]
    assert record.cost > 0


async def test_a_worker_whose_spool_is_filling_up_is_not_ready_and_still_serves_what_comes(
    simulator: Simulator, tmp_path: Path
) -> None:
    spool = Spool(tmp_path, max_bytes=20_000)
    app = build_app(PROVIDERS["google"], [supplier("google", 1, "k", simulator.url)], CATALOG, TOKEN, LocalBus, spool)
    async with listening(app, "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        worker = Worker(f"http://127.0.0.1:{port}", session, Books(), app)
        while spool.percent_full < READY_PERCENT:
            async with session.get(f"{worker.url}/ready") as ready:
                assert ready.status == 200
            assert (await worker.ask(chat("google", "Hi"))).status == 200
        async with session.get(f"{worker.url}/ready") as ready:
            assert "% full" in (await ready.json())["checks"]["usage"]
        assert (await worker.ask(chat("google", "Hi"))).status == 200


async def test_a_worker_without_credentials_is_not_ready_and_answers_503() -> None:
    async with worker_of(PROVIDERS["google"], []) as worker:
        async with worker.session.get(f"{worker.url}/ready") as ready:
            assert "no credentials" in (await ready.json())["checks"]["credentials"]
        answer = await worker.ask(chat("google", "Hi"))
        assert (answer.status, answer.code) == (503, "no_supplier")
        assert not worker.books.records, "nothing reached a provider"


async def test_a_chat_model_makes_no_embeddings(running: Running, simulator: Simulator) -> None:
    async with running("anthropic") as worker:
        body = {"model": "anthropic/claude-sonnet-4-6", "input": "Hi"}
        answer = await worker.ask(body, "/v1/embeddings")
    assert (answer.status, answer.code) == (400, "embeddings_unsupported")
    assert await simulator.served() == []


async def test_a_users_name_reaches_the_books_as_a_digest_only(running: Running) -> None:
    async with running("google") as worker:
        for user in ("ann@example.com", "ann@example.com", "bob@example.com"):
            await worker.ask(chat("google", "Hi", user=user))
        await until(lambda: len(worker.books.records) == 3, "all three are on record")
        ann, again, bob = (record.user_digest for record in worker.books.records)
    assert ann == again != bob
    assert "ann" not in str(worker.books.records)


STRANGE: list[tuple[str, Any]] = [
    ("anthropic", {"type": "message_delta", "delta": 3, "content": [3]}),
    ("google", {"candidates": "x"}),
    ("google", {"candidates": [{"content": {"parts": [3]}, "finishReason": "STOP"}]}),
]


@EITHER_WAY
@pytest.mark.parametrize(("name", "strange"), STRANGE, ids=str)
async def test_a_provider_that_answers_nonsense_is_on_record_too(
    running: Running, name: str, stream: bool, strange: Any
) -> None:
    async def nonsense(request: web.Request) -> web.Response:
        if stream:
            return web.Response(body=b"data: %b\n\n" % json.dumps(strange).encode(), content_type="text/event-stream")
        return web.json_response(strange)

    async with provider_that(nonsense) as url, running(name, url=url) as worker:
        answer = await worker.ask(chat(name, "Hi", stream=stream))
        await worker.answers()
    assert answer.status in {502, 503}
    (record,) = worker.books.records
    assert (record.outcome, record.cost) == ("upstream_failed", 0)


HUGE = 2**70
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer", "enum": [HUGE]}}}


@pytest.mark.parametrize("model", ["anthropic/claude-sonnet-4-6", "google/gemini-2.5-pro"])
@pytest.mark.parametrize(
    "members",
    [
        {"max_tokens": HUGE},
        {"top_k": HUGE},
        {"response_format": SCHEMA},
    ],
    ids=lambda members: next(iter(members)),
)
async def test_a_number_of_any_size_never_becomes_a_500(running: Running, model: str, members: dict[str, Any]) -> None:
    async with running(model.partition("/")[0]) as worker:
        answer = await worker.ask(chat("google", "Hi", **members) | {"model": model})
    assert answer.status in {200, 400}
