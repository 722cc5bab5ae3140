"""A provider that thinks for long: the silence is broken, and whatever comes after it is still told rightly."""

import asyncio

import pytest
from aiohttp import web

from services.workers import streamed
from shared.sse import Decoder
from tests.unit.workers.running import PROVIDERS, Running, chat, provider_that, supplier
from tests.unit.workers.running import worker as worker_of

KEEP_ALIVE = b": keep-alive\n\n"
BOTH = pytest.mark.parametrize("name", ["anthropic", "google"])


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "SILENCE_S", 0.05)


@BOTH
async def test_a_silence_before_the_first_word_commits_the_stream_and_the_words_follow(
    running: Running, name: str
) -> None:
    async with running(name) as worker:
        answer = await worker.ask(chat(name, "Hello [[delay_ms=300]]", stream=True))
        record = await worker.books.only()
    assert answer.status == 200
    assert answer.body.startswith(KEEP_ALIVE)
    events = [event.data for event in Decoder().feed(answer.body)]
    assert '"role":"assistant"' in events[0]
    assert events[-1] == "[DONE]"
    assert record.outcome == "completed"


@BOTH
async def test_a_silence_between_two_words_is_broken_without_breaking_them(running: Running, name: str) -> None:
    async with running(name) as worker:
        slow = await worker.ask(chat(name, "Hello [[chunks=3 chunk_delay_ms=150]]", stream=True))
    assert KEEP_ALIVE in slow.body
    for comment in slow.body.split(KEEP_ALIVE)[:-1]:
        assert comment == b"" or comment.endswith(b"\n\n"), "a comment stands between events, never inside one"


@BOTH
async def test_a_refusal_after_a_silence_is_told_inside_the_stream_and_is_free(name: str) -> None:
    heard = asyncio.Event()

    async def refuse(_: web.Request) -> web.Response:
        await heard.wait()
        return web.json_response({"error": {"message": "no", "code": 400}}, status=400)

    async with provider_that(refuse) as url, worker_of(PROVIDERS[name], [supplier(name, 1, "key", url)]) as worker:
        async with worker.post(chat(name, "Hello", stream=True)) as answer:
            assert answer.status == 200
            assert await answer.content.readuntil(b"\n\n") == KEEP_ALIVE
            heard.set()
            rest = await answer.content.read()
        record = await worker.books.only()
    error, done = Decoder().feed(rest)
    assert '"code":"upstream_error"' in error.data
    assert done.data == "[DONE]"
    assert (record.outcome, record.cost_pico_usd) == ("upstream_refused", "0")


async def test_a_stream_that_is_never_silent_has_no_comment(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "SILENCE_S", 30.0)
    async with running("anthropic") as worker:
        answer = await worker.ask(chat("anthropic", "Hello", stream=True))
    assert KEEP_ALIVE not in answer.body
    assert asyncio.all_tasks() <= {asyncio.current_task()}, "the timer ends with the stream"
