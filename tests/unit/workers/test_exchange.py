"""Who pays when an answer does not run its course: the client left, or the time was up."""

import asyncio
import json
from typing import Any

import pytest

from services.workers import exchange
from shared.sse import Decoder
from tests.unit.workers.running import Running, Simulator, Worker, chat

SLOW = "Tell me a story [[tokens=200 chunks=50 chunk_delay_ms=20]]"
BOTH = pytest.mark.parametrize("name", ["anthropic", "google"])


async def leave_after_first_words(running: Worker, body: Any) -> str:
    """Read until something was said, then hang up; what was read."""
    seen = b""
    async with running.post(body) as response:
        assert response.status == 200
        while b'"content"' not in seen:
            seen += await response.content.readany()
    return seen.decode()


async def test_a_client_that_leaves_cuts_anthropic_off_and_pays_for_what_had_come(
    running: Running, simulator: Simulator
) -> None:
    async with running("anthropic") as worker:
        await leave_after_first_words(worker, chat("anthropic", SLOW, stream=True))
        record, served = await worker.books.only(), await simulator.ended()
    assert served["outcome"] == "client_left"
    assert (record.outcome, record.usage_source) == ("client_disconnected", "estimated")
    assert record.tokens.input == served["tokens"]["input"] > 0
    assert 0 < record.tokens.output < 200
    assert record.tokens.output == pytest.approx(served["tokens"]["output"], abs=12)  # estimated; a chunk on the way
    assert record.cost == record.owed > 0


async def test_a_client_that_leaves_pays_google_to_the_end_as_google_counts_on(
    running: Running, simulator: Simulator
) -> None:
    async with running("google") as worker:
        await leave_after_first_words(worker, chat("google", SLOW, stream=True))
        record, served = await worker.books.only(), await simulator.ended()
    assert served["outcome"] == "completed"
    assert (record.outcome, record.usage_source) == ("client_disconnected", "reported")
    assert record.tokens.model_dump() == served["tokens"]
    assert record.cost == record.owed > 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_client_that_leaves_before_the_first_byte_pays_anthropic_for_the_input(
    running: Running, simulator: Simulator, stream: bool
) -> None:
    async with running("anthropic") as worker:
        await leave_unanswered(worker, simulator, chat("anthropic", "Think long [[mute]]", stream=stream))
        record = await worker.books.only()
        assert (await simulator.ended())["outcome"] == "client_left"
    assert (record.outcome, record.usage_source, record.tokens.output) == ("client_disconnected", "estimated", 0)
    assert record.tokens.input == -(-len("Think long [[mute]]") // 4)
    assert record.cost == record.owed > 0


async def leave_unanswered(worker: Worker, simulator: Simulator, body: Any) -> None:
    """Hang up once the worker is waiting for its provider."""
    asking = asyncio.create_task(worker.ask(body))
    await worker.calling()
    await simulator.served()  # a round trip behind the call: it has arrived
    asking.cancel()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_of_google_that_nobody_waits_for_is_billed_as_counted(
    running: Running, simulator: Simulator, stream: bool
) -> None:
    async with running("google") as worker:
        await leave_unanswered(worker, simulator, chat("google", "Hi [[delay_ms=300 tokens=40]]", stream=stream))
        record, served = await worker.books.only(), await simulator.ended()
    assert (record.outcome, record.usage_source) == ("client_disconnected", "reported")
    assert record.tokens.model_dump() == served["tokens"]


async def test_google_is_read_on_for_a_bounded_time_only(
    running: Running, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "DRAIN_S", 0.1)
    async with running("google") as worker:
        await leave_unanswered(worker, simulator, chat("google", "Hi [[mute]]", stream=True))
        record = await worker.books.only()
        assert (await simulator.ended())["outcome"] == "client_left"
    assert (record.outcome, record.usage_source) == ("client_disconnected", "estimated")
    assert record.cost == record.owed > 0


async def test_a_worker_that_is_stopped_still_settles_what_nobody_waits_for(
    running: Running, simulator: Simulator
) -> None:
    async with running("google") as worker:
        await leave_after_first_words(worker, chat("google", SLOW, stream=True))
        await worker.left()
        assert not worker.books.records
    (record,) = worker.books.records
    assert (record.outcome, record.usage_source) == ("client_disconnected", "reported")


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_no_answer_within_the_deadline_is_a_504_and_free(running: Running, name: str, stream: bool) -> None:
    async with running(name) as worker:
        answer = await worker.ask(chat(name, "Hi [[mute]]", stream=stream), x_opentoken_deadline_ms="100")
        record = await worker.books.only()
    assert (answer.status, answer.code) == (504, "upstream_timeout")
    assert (record.outcome, record.cost) == ("upstream_failed", 0)
    assert [attempt.status for attempt in record.attempts] == [None]


@BOTH
async def test_a_deadline_inside_a_stream_is_told_in_it_and_waived(running: Running, name: str) -> None:
    async with running(name) as worker:
        answer = await worker.ask(chat(name, SLOW, stream=True), x_opentoken_deadline_ms="300")
        record = await worker.books.only()
    *_, error, done = (event.data for event in Decoder().feed(answer.body))
    assert done == "[DONE]"
    told = json.loads(error)["error"]
    assert (told["type"], told["code"]) == ("upstream_error", "upstream_timeout")
    assert answer.body.endswith(b"data: [DONE]\n\n: settled 0 0\n\n")
    assert (record.outcome, record.cost) == ("upstream_interrupted", 0)
    assert record.tokens.input > 0, "the counts stay on the record for reconciliation"


@BOTH
@pytest.mark.parametrize("fault", ["midstream_error", "truncate", "eof"])
async def test_a_stream_that_breaks_is_on_record_and_free(running: Running, name: str, fault: str) -> None:
    async with running(name) as worker:
        answer = await worker.ask(chat(name, f"Hi [[{fault} tokens=50 chunks=10]]", stream=True))
        record = await worker.books.only()
    assert b"stream interrupted: " in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n: settled 0 0\n\n")
    assert (record.outcome, record.cost, len(record.attempts)) == ("upstream_interrupted", 0, 1)
    assert record.owed == 0


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_without_counts_is_estimated_and_marked_so(running: Running, name: str, stream: bool) -> None:
    async with running(name) as worker:
        answer = await worker.ask(chat(name, "Hi [[no_usage tokens=40]]", stream=stream))
        record = await worker.books.only()
    assert answer.status == 200
    assert (record.outcome, record.usage_source) == ("completed", "estimated")
    assert record.tokens.output > 0
    assert record.cost == record.owed > 0
    used = answer.json["usage"] if not stream else usage_of(answer.body)
    assert used["prompt_tokens"] == record.tokens.input
    assert used["completion_tokens"] == record.tokens.output


def usage_of(stream: bytes) -> Any:
    """The usage chunk of a stream."""
    chunks = [json.loads(event.data) for event in Decoder().feed(stream) if event.data != "[DONE]"]
    (usage,) = [chunk["usage"] for chunk in chunks if "usage" in chunk]
    return usage


async def test_the_deadline_holds_for_an_answer_of_google_that_nobody_waits_for(running: Running) -> None:
    body = chat("google", "A saga [[tokens=2000 chunks=1000 chunk_delay_ms=100]]", stream=True)
    async with running("google") as worker:
        async with worker.post(body, x_opentoken_deadline_ms="700") as response:
            await response.content.readany()
        record = await worker.books.only()
    assert (record.outcome, record.usage_source) == ("client_disconnected", "estimated")
