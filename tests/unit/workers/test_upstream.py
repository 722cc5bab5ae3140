"""Retries, the next supplier, silence, and a provider's words without what is ours to hide."""

import json
from typing import Any

import pytest
from aiohttp import web

from services.workers import upstream
from shared.sse import Decoder
from tests.servers.process import free_ports
from tests.unit.workers.running import PROVIDERS, Running, Simulator, chat, provider_that, supplier, worker

BOTH = pytest.mark.parametrize("name", ["anthropic", "google"])
EITHER_WAY = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@BOTH
@EITHER_WAY
async def test_what_a_provider_recovers_from_is_retried_and_billed_once(
    running: Running, name: str, stream: bool
) -> None:
    async with running(name) as worker:
        answer = await worker.ask(chat(name, "Hi [[fail_first=2]]", stream=stream))
        record = await worker.books.only()
    assert answer.status == 200
    assert [attempt.status for attempt in record.attempts][-1] == 200
    assert len(record.attempts) == 3
    assert record.outcome == "completed"


@BOTH
@EITHER_WAY
async def test_a_supplier_that_refuses_our_key_is_passed_over(running: Running, name: str, stream: bool) -> None:
    async with running(name, "invalid", "good") as worker:
        answer = await worker.ask(chat(name, "Hi", stream=stream))
        record = await worker.books.only()
    assert answer.status == 200
    assert [attempt.supplier for attempt in record.attempts] == [f"{name}-1", f"{name}-2"]
    assert record.supplier == f"{name}-2"


@BOTH
@pytest.mark.parametrize("fault", ["[[status=429]]", "[[key_invalid]]"])
async def test_quota_and_keys_are_tried_once_at_each_supplier(running: Running, name: str, fault: str) -> None:
    async with running(name, "one", "two") as worker:
        answer = await worker.ask(chat(name, f"Hi {fault}"))
        record = await worker.books.only()
    assert answer.status == (429 if "429" in fault else 502)
    assert [attempt.supplier for attempt in record.attempts] == [f"{name}-1", f"{name}-2"]
    assert record.cost == 0


@BOTH
async def test_a_request_that_is_wrong_is_not_sent_to_the_next_supplier(running: Running, name: str) -> None:
    async with running(name, "one", "two") as worker:
        answer = await worker.ask(chat(name, "Hi [[status=400]]"))
        record = await worker.books.only()
    assert answer.status == 400
    assert [(attempt.supplier, attempt.status) for attempt in record.attempts] == [(f"{name}-1", 400)]
    assert (record.outcome, record.cost) == ("upstream_refused", 0)


@BOTH
async def test_a_stream_that_fails_before_its_first_words_is_tried_at_the_next_supplier(
    running: Running, name: str
) -> None:
    async with running(name, "one", "two") as worker:
        answer = await worker.ask(chat(name, "Hi [[midstream_error=0]]", stream=True))
        record = await worker.books.only()
    assert (answer.status, answer.code) == (503, "no_supplier")
    assert {attempt.supplier for attempt in record.attempts} == {f"{name}-1", f"{name}-2"}
    assert (record.outcome, record.cost) == ("upstream_failed", 0)


@BOTH
async def test_nothing_is_tried_again_once_words_have_come(running: Running, name: str) -> None:
    async with running(name, "one", "two") as worker:
        answer = await worker.ask(chat(name, "Hi [[midstream_error=2 tokens=40 chunks=8]]", stream=True))
        record = await worker.books.only()
    assert answer.status == 200
    assert [attempt.supplier for attempt in record.attempts] == [f"{name}-1"]


@BOTH
@EITHER_WAY
async def test_a_supplier_that_takes_no_connection_is_passed_over(
    simulator: Simulator, name: str, stream: bool
) -> None:
    (nobody,) = free_ports(1)
    ways = [supplier(name, 1, "key", f"http://127.0.0.1:{nobody}"), supplier(name, 2, "key", simulator.url)]
    async with worker(PROVIDERS[name], ways) as running:
        answer = await running.ask(chat(name, "Hi", stream=stream))
        record = await running.books.only()
    assert answer.status == 200
    assert record.supplier == f"{name}-2"
    assert {(attempt.supplier, attempt.status) for attempt in record.attempts} == {
        (f"{name}-1", None),
        (f"{name}-2", 200),
    }


@BOTH
@EITHER_WAY
async def test_a_provider_that_stays_silent_is_a_504(
    running: Running, name: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "IDLE_TIMEOUT_S", 0.1)
    async with running(name) as worker:
        answer = await worker.ask(chat(name, "Hi [[mute]]", stream=stream))
        record = await worker.books.only()
    assert (answer.status, answer.code) == (504, "upstream_timeout")
    assert (record.outcome, record.cost) == ("upstream_failed", 0)


@BOTH
async def test_a_stream_that_falls_silent_says_so_in_band(
    running: Running, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "IDLE_TIMEOUT_S", 0.2)
    prompt = "Hi [[tokens=40 chunks=8 chunk_delay_ms=1000]]"

    async def then_nothing(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(FIRST_WORDS[name])
        await running_.books.only()  # which comes when the worker has given up
        return response

    async with provider_that(then_nothing) as url, running(name, url=url) as running_:
        answer = await running_.ask(chat(name, prompt, stream=True))
        record = await running_.books.only()
    assert told_in_band(answer.body)["code"] == "upstream_timeout"
    assert (record.outcome, record.cost) == ("upstream_interrupted", 0)


FIRST_WORDS = {
    "anthropic": b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"Once"}}\n\n',
    "google": b'data: {"candidates":[{"content":{"parts":[{"text":"Once"}]}}]}\n\n',
}


def told_in_band(stream: bytes) -> Any:
    """The error inside a stream that a worker has closed."""
    *_, error, done = (event.data for event in Decoder().feed(stream))
    assert done == "[DONE]"
    return json.loads(error)["error"]


SECRET = "sk-secret-of-ours"
INDISCREET = f"key {SECRET} of projects/acme-prod-1 has no quota: see https://console.example.com/iam?project=acme"


@BOTH
@EITHER_WAY
async def test_a_providers_words_are_passed_on_without_keys_projects_and_addresses(
    running: Running, name: str, stream: bool
) -> None:
    async with running(name, SECRET) as worker:
        answer = await worker.ask(chat(name, f'Hi [[status=400 message="{INDISCREET}"]]', stream=stream))
    assert "has no quota" in answer.json["error"]["message"]
    check_discreet(answer.body)


@BOTH
async def test_a_providers_words_inside_a_stream_are_as_discreet(running: Running, name: str) -> None:
    failure = {
        "anthropic": {"type": "error", "error": {"type": "overloaded_error", "message": INDISCREET}},
        "google": {"error": {"code": 503, "message": INDISCREET, "status": "UNAVAILABLE"}},
    }[name]

    async def fail(request: web.Request) -> web.Response:
        words = FIRST_WORDS[name] + b"data: " + json.dumps(failure).encode() + b"\n\n"
        return web.Response(body=words, content_type="text/event-stream")

    async with provider_that(fail) as url, running(name, SECRET, url=url) as worker:
        answer = await worker.ask(chat(name, "Hi", stream=True))
    assert "has no quota" in told_in_band(answer.body)["message"]
    check_discreet(answer.body)


def check_discreet(told: bytes) -> None:
    for ours in (SECRET, "acme-prod-1", "console.example.com", "project=acme"):
        assert ours.encode() not in told


async def test_the_consumer_in_googles_quota_words_is_hidden(running: Running) -> None:
    words = "Quota exceeded for quota metric 'Requests' of service 'x' for consumer 'project_number:314159265'."
    async with running("google") as worker:
        answer = await worker.ask(chat("google", f'Hi [[status=429 message="{words}"]]'))
    assert b"314159265" not in answer.body


@BOTH
async def test_our_key_never_follows_a_redirect(running: Running, name: str) -> None:
    keys: list[str | None] = []

    async def elsewhere(request: web.Request) -> web.Response:
        keys.append(request.headers.get("x-api-key") or request.headers.get("x-goog-api-key"))
        return web.json_response({})

    async with provider_that(elsewhere) as other:

        async def redirect(request: web.Request) -> web.Response:
            raise web.HTTPTemporaryRedirect(f"{other}{request.path_qs}")

        async with provider_that(redirect) as url, running(name, SECRET, url=url) as worker:
            answer = await worker.ask(chat(name, "Hi"))
    assert keys == []
    assert answer.status == 503


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_counts_that_are_no_whole_numbers_leave_a_record_all_the_same(stream: bool) -> None:
    usage = {"input_tokens": 5.0, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "usage": usage}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi there"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
    ]

    async def answers(_: web.Request) -> web.Response:
        if not stream:
            content = [{"type": "text", "text": "Hi there"}]
            return web.json_response(message | {"content": content, "stop_reason": "end_turn"})
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return web.Response(text=body, content_type="text/event-stream")

    async with provider_that(answers) as url, worker(PROVIDERS["anthropic"], [supplier("anthropic", 1, "k", url)]) as w:
        await w.ask(chat("anthropic", "Hi", stream=stream))
        record = await w.books.only()
    if stream:
        assert (record.outcome, record.usage_source, record.tokens.output) == ("completed", "estimated", 2)
    else:
        assert (record.outcome, record.cost) == ("upstream_failed", 0)
