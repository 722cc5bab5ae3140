"""A worker for Google before the simulated Google: caches, Vertex AI, flex, and penalties."""

import json
from typing import Any

import pytest

from services.workers.google import caching
from shared.events import UsageRecorded
from shared.sse import Decoder
from tests.integration.workers.google import PREFIX_TOKENS, Google, cached, hello, record_of
from tests.unit.simulator.vertex import key_pair, tell
from tests.unit.workers.running import Answer, Worker

EITHER_WAY = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
CACHED = "cachedContents.create"


async def ask(worker: Worker, body: dict[str, Any], **headers: str) -> UsageRecorded:
    """The record of a request that is answered."""
    return await record_of(worker, await worker.ask(body, **headers))


def usage_of(answer: Answer) -> dict[str, Any]:
    """What the client reads of its usage, streamed or whole."""
    if answer.headers["content-type"].startswith("application/json"):
        return answer.json["usage"]
    return json.loads([event.data for event in Decoder().feed(answer.body)][-2])["usage"]


@EITHER_WAY
async def test_a_cache_is_made_once_then_read_and_each_is_charged_as_it_is(google: Google, stream: bool) -> None:
    async with google.worker("key") as worker:
        first, second = [await worker.ask(cached("12345678", stream=stream)) for _ in range(2)]
        written, read = await record_of(worker, first), await record_of(worker, second)
    assert (written.tokens.input, written.tokens.cache_write, written.tokens.cache_read) == (2, PREFIX_TOKENS, 0)
    assert (read.tokens.input, read.tokens.cache_write, read.tokens.cache_read) == (2, 0, PREFIX_TOKENS)
    assert usage_of(first)["prompt_tokens_details"] == {"cached_tokens": 0, "cache_creation_tokens": PREFIX_TOKENS}
    assert usage_of(second)["prompt_tokens_details"] == {"cached_tokens": PREFIX_TOKENS, "cache_creation_tokens": 0}
    assert usage_of(first)["prompt_tokens"] == usage_of(second)["prompt_tokens"] == PREFIX_TOKENS + 2
    assert read.cost < written.cost
    assert (await google.operations()).count(CACHED) == 1


async def test_a_prefix_that_is_too_small_goes_uncached_and_is_tried_once(google: Google) -> None:
    async with google.worker("key") as worker:
        records = [await ask(worker, cached(policy="short")) for _ in range(2)]
    for record in records:
        assert (record.tokens.cache_write, record.tokens.cache_read) == (0, 0)
        assert record.tokens.input == 3
    assert await google.operations() == [CACHED, "generateContent", "generateContent"]
    assert [attempt.status for attempt in records[0].attempts] == [400, 200]


@EITHER_WAY
async def test_a_cache_that_is_gone_is_retried_uncached_and_nobody_notices(google: Google, stream: bool) -> None:
    async with google.worker("key") as worker:
        await ask(worker, cached())
        await google.delete_all()
        record = await ask(worker, cached(stream=stream))
    assert [attempt.status for attempt in record.attempts] == [403, 200]
    assert (record.tokens.cache_write, record.tokens.cache_read) == (0, 0)
    assert record.tokens.input > PREFIX_TOKENS


async def test_two_workspaces_never_share_a_cache(google: Google) -> None:
    async with google.worker("key") as worker:
        for workspace in ("one", "two"):
            record = await ask(worker, cached(), x_opentoken_workspace=workspace)
            assert (record.tokens.cache_write, record.tokens.cache_read) == (PREFIX_TOKENS, 0)
        assert len(await google.caches()) == 2
        record = await ask(worker, cached(), x_opentoken_workspace="one")
    assert record.tokens.cache_read == PREFIX_TOKENS


async def test_an_expired_cache_is_made_anew(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "TTL_S", 1)
    monkeypatch.setattr(caching, "MARGIN_S", 0.8)
    monkeypatch.setattr(caching, "RENEW_BELOW_S", 0)
    async with google.worker("key") as worker:
        await ask(worker, cached())
        read = 0
        while (record := await ask(worker, cached())).tokens.cache_read:
            read += 1
    assert read
    assert record.tokens.cache_write == PREFIX_TOKENS
    assert (await google.operations()).count(CACHED) == 2
    assert all(attempt.status == 200 for one in worker.books.records for attempt in one.attempts)


async def test_a_cache_in_use_is_prolonged_in_its_second_half(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "RENEW_BELOW_S", caching.TTL_S - caching.MARGIN_S - 0.2)
    async with google.worker("key") as worker:
        await ask(worker, cached())
        while "cachedContents.patch" not in await google.operations():
            record = await ask(worker, cached())
            assert (record.tokens.cache_write, record.tokens.cache_read) == (0, PREFIX_TOKENS)
    assert (await google.operations()).count(CACHED) == 1
    assert [attempt.status for attempt in record.attempts] == [200, 200]


async def test_a_cache_with_functions_still_calls_them(google: Google) -> None:
    function = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    body = cached("What is the weather?", tools=[{"type": "function", "function": function}])
    async with google.worker("key") as worker:
        for _ in range(2):
            answer = await worker.ask(body)
            await record_of(worker, answer)
            assert answer.json["choices"][0]["finish_reason"] == "tool_calls"
    assert (await google.operations()).count(CACHED) == 1


@EITHER_WAY
@pytest.mark.parametrize("location", ["global", "us-central1"])
async def test_vertex_answers_with_one_token_for_many_requests(google: Google, location: str, stream: bool) -> None:
    async with google.worker(locations=location) as worker:
        records = [await ask(worker, hello(stream=stream)) for _ in range(3)]
    assert {record.supplier for record in records} == {f"vertex-{location}"}
    assert {record.service_tier for record in records} == {"standard"}
    assert (await google.operations()).count("token") == 1
    assert [len(record.attempts) for record in records] == [2, 1, 1]


@EITHER_WAY
async def test_a_token_that_is_refused_is_fetched_anew_once(google: Google, stream: bool) -> None:
    async with google.worker(locations="global") as worker:
        await ask(worker, hello())
        await tell(google, key_pair())  # which ends the tokens that were given
        record = await ask(worker, hello(stream=stream))
        await ask(worker, hello())
    assert [attempt.status for attempt in record.attempts] == [401, 200, 200]
    assert (await google.operations()).count("token") == 2


async def test_tokens_that_are_always_refused_are_not_fetched_over_and_over(google: Google) -> None:
    await tell(google, key_pair(), expires_in=0)
    async with google.worker(locations="global") as worker:
        answer = await worker.ask(hello())
    assert (answer.status, answer.code) == (502, "vertex_auth_failed")
    assert (await google.operations()).count("token") == 2


@EITHER_WAY
async def test_a_service_account_that_is_refused_is_a_502_and_free(google: Google, stream: bool) -> None:
    google.write_key_file(key_pair(2))
    async with google.worker(locations="global") as worker:
        answer = await worker.ask(hello(stream=stream))
        record = await worker.books.only()
    assert (answer.status, answer.json["error"]["type"], answer.code) == (502, "upstream_error", "vertex_auth_failed")
    assert (record.outcome, record.cost) == ("upstream_failed", 0)
    assert await google.operations() == ["token"]


async def test_a_token_endpoint_that_fails_is_tried_again_then_a_502(google: Google) -> None:
    await tell(google, key_pair(), status=503)
    async with google.worker(locations="global") as worker:
        answer = await worker.ask(hello())
    assert (answer.status, answer.code) == (502, "vertex_auth_failed")
    assert await google.operations() == ["token"] * 3


@EITHER_WAY
async def test_a_key_without_quota_for_today_gives_way_to_vertex(google: Google, stream: bool) -> None:
    async with google.worker("exhausted", locations="us-central1") as worker:
        record = await ask(worker, hello(stream=stream))
    assert [(attempt.supplier, attempt.status) for attempt in record.attempts] == [
        ("gemini-1", 429),
        ("vertex-us-central1", 200),
        ("vertex-us-central1", 200),
    ]
    assert record.supplier == "vertex-us-central1"


async def test_nothing_but_an_unused_key_is_left_when_the_account_is_refused(google: Google) -> None:
    google.write_key_file(key_pair(2))
    async with google.worker("exhausted", locations="global") as worker:
        answer = await worker.ask(hello())
        record = await worker.books.only()
    assert (answer.status, answer.code, record.cost) == (502, "vertex_auth_failed", 0)


async def test_vertex_caches_a_prefix_too_and_does_without_one_that_is_gone(google: Google) -> None:
    async with google.worker(locations="us-central1") as worker:
        written, read = [await ask(worker, cached()) for _ in range(2)]
        await google.delete_all("us-central1")
        without = await ask(worker, cached())
    assert (written.tokens.cache_write, read.tokens.cache_read) == (PREFIX_TOKENS, PREFIX_TOKENS)
    assert [attempt.status for attempt in without.attempts] == [404, 200]
    assert (without.tokens.cache_write, without.tokens.cache_read) == (0, 0)


@EITHER_WAY
async def test_flex_is_sold_through_the_global_endpoint_at_half_the_rates(google: Google, stream: bool) -> None:
    async with google.worker("key", locations="us-central1,global") as worker:
        answer = await worker.ask(hello(service_tier="flex", stream=stream))
        record = await record_of(worker, answer)
        standard = await ask(worker, hello(stream=stream))
    assert (record.service_tier, record.supplier) == ("flex", "vertex-global")
    assert record.upstream_usage is not None
    assert record.upstream_usage["trafficType"] == "ON_DEMAND_FLEX"
    assert (standard.service_tier, standard.supplier) == ("standard", "gemini-1")
    assert record.tokens == standard.tokens
    assert 2 * record.cost == standard.cost
    told = [json.loads(event.data) for event in Decoder().feed(answer.body)[:-1]] if stream else [answer.json]
    assert {part["service_tier"] for part in told} == {"flex"}


@pytest.mark.parametrize("locations", [None, "us-central1"], ids=["gemini", "regional"])
@EITHER_WAY
async def test_where_nobody_sells_flex_the_answer_is_a_standard_one(
    google: Google, locations: str | None, stream: bool
) -> None:
    async with google.worker(*([] if locations else ["key"]), locations=locations) as worker:
        answer = await worker.ask(hello(service_tier="flex", stream=stream))
        record = await record_of(worker, answer)
    assert record.service_tier == "standard"
    assert b"service_tier" not in answer.body


@EITHER_WAY
async def test_flex_that_cannot_be_had_is_answered_and_charged_as_standard(google: Google, stream: bool) -> None:
    google.write_key_file(key_pair(2))
    async with google.worker("key", locations="global") as worker:
        answer = await worker.ask(hello(service_tier="flex", stream=stream))
        record = await record_of(worker, answer)
    assert (record.service_tier, record.supplier) == ("standard", "gemini-1")
    assert b"service_tier" not in answer.body


async def test_a_cache_under_flex_is_charged_at_half_the_rates_too(google: Google) -> None:
    async with google.worker(locations="global") as worker:
        written, read = [await ask(worker, cached(service_tier="flex")) for _ in range(2)]
    assert (written.service_tier, written.tokens.cache_write) == ("flex", PREFIX_TOKENS)
    assert (read.service_tier, read.tokens.cache_read) == ("flex", PREFIX_TOKENS)


@EITHER_WAY
async def test_penalties_are_disproved_once_then_remembered(google: Google, stream: bool) -> None:
    body = hello("Hi [[no_penalties]]", "google/gemini-2.5-pro", presence_penalty=0.5, stream=stream)
    async with google.worker("key") as worker:
        records = [await ask(worker, body) for _ in range(2)]
    assert [[attempt.status for attempt in record.attempts] for record in records] == [[400, 200], [200]]
