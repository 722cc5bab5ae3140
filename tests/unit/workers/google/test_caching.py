"""A cache is made, read, renewed and given up by what the memory holds and the provider says; nothing here waits."""

from typing import Any

import orjson
import pytest

from services.workers.google import PROVIDER
from services.workers.google.caching import MARGIN_S, TTL_S, UNFIT_S
from services.workers.memory import BoundedMemory
from services.workers.provider import DISPROVED, Failed, UpstreamReply, UpstreamRequest
from shared.errors import NoSupplier
from tests.unit.workers.google.calls import Driven, chat, error, granted, reply, returned, vertex

MADE = reply({"name": "cachedContents/one"})
GONE = "CachedContent not found (or permission denied)"
TOOL = {"type": "function", "function": {"name": "f"}}


class Timed(BoundedMemory):
    """A memory in which time passes when it is told to."""

    passed_s = 0.0

    def left_s(self, key: str) -> float:
        return max(0.0, super().left_s(key) - self.passed_s)


def planned(memory: BoundedMemory, **members: Any) -> Driven:
    return Driven(PROVIDER.plan(chat(memory, **members)))


def made(memory: BoundedMemory, **members: Any) -> UpstreamRequest:
    """The call of a request that makes its cache."""
    return planned(memory, **members).answer(MADE).result


def read(memory: BoundedMemory, **members: Any) -> UpstreamRequest:
    """The call of a request that finds its cache made, or does without."""
    return returned(PROVIDER.plan(chat(memory, **members)))


def cache_of(call: UpstreamRequest) -> str | None:
    return orjson.loads(call.body).get("cachedContent")


def test_the_prefix_goes_into_the_cache_and_nothing_of_it_stays_in_the_request() -> None:
    plan = planned(BoundedMemory(), tools=[TOOL], tool_choice="auto")
    assert (plan.sent.method, plan.sent.url) == ("POST", "https://gemini.example/v1beta/cachedContents")
    assert plan.body["model"] == "models/gemini-3-flash-preview"
    assert plan.body["ttl"] == f"{TTL_S}s"
    assert plan.body.keys() == {"model", "systemInstruction", "tools", "toolConfig", "ttl", "displayName"}
    call = plan.answer(MADE).result
    assert orjson.loads(call.body).keys() == {"contents", "cachedContent"}
    assert call.writes_cache


def test_the_request_that_makes_a_cache_pays_for_writing_it_and_later_ones_for_reading() -> None:
    memory = BoundedMemory()
    metadata = {"promptTokenCount": 1030, "cachedContentTokenCount": 1024, "candidatesTokenCount": 5}
    body = {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}], "usageMetadata": metadata}
    for call, (written, cached) in ((made(memory), (1024, 0)), (read(memory, request_id="2"), (0, 1024))):
        tokens = PROVIDER.answer(chat(memory).request, call, reply(body)).usage.tokens
        assert (tokens.input, tokens.cache_write, tokens.cache_read) == (6, written, cached)


def test_a_retry_of_the_request_that_made_a_cache_still_pays_for_writing_it() -> None:
    memory = BoundedMemory()
    assert made(memory, request_id="1").writes_cache
    assert read(memory, request_id="1").writes_cache
    assert not read(memory, request_id="2").writes_cache


@pytest.mark.parametrize(
    "members",
    [
        {"workspace": "another"},
        {"model": "google/gemini-2.5-pro"},
        {"tools": [TOOL]},
        {
            "messages": [
                {
                    "role": "system",
                    "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
                }
            ]
        },
    ],
    ids=["workspace", "model", "tools", "system"],
)
def test_a_cache_is_shared_by_nothing_but_the_same_prefix_of_the_same_workspace(members: dict[str, Any]) -> None:
    memory = BoundedMemory()
    made(memory)
    assert cache_of(read(memory, request_id="2")) == "cachedContents/one"
    assert planned(memory, **members).sent.url.endswith("/cachedContents")


def test_each_supplier_has_caches_of_its_own() -> None:
    memory = BoundedMemory()
    made(memory)
    plan = planned(memory, supplier=vertex()).answer(granted())
    assert plan.sent.url.endswith("/locations/global/cachedContents")
    assert plan.body["model"].endswith("/locations/global/publishers/google/models/gemini-3-flash-preview")


@pytest.mark.parametrize(
    "failure",
    [
        error(400, "Cached content is too small. total_token_count=2, min_total_token_count=4096"),
        error(429, "slow down"),
        error(503, "overloaded"),
        reply({}),
        UpstreamReply(200, {}, b"<html>"),
        Failed(NoSupplier(), "upstream closed the connection", retries=2),
    ],
    ids=["too small", "429", "503", "nameless", "not JSON", "no connection"],
)
def test_whatever_fails_the_request_goes_on_uncached_and_the_prefix_is_left_alone(failure: Any) -> None:
    memory = Timed()
    first = planned(memory).answer(failure).result
    assert orjson.loads(first.body).keys() == {"contents", "systemInstruction"}
    assert not first.writes_cache
    assert cache_of(read(memory)) is None
    memory.passed_s = UNFIT_S
    assert planned(memory).sent.url.endswith("/cachedContents")


def test_a_cache_in_use_is_renewed_in_its_second_half_and_not_before() -> None:
    memory = Timed()
    made(memory)
    half_s = TTL_S / 2 - MARGIN_S
    memory.passed_s = half_s - 5
    assert cache_of(read(memory, request_id="2")) == "cachedContents/one"
    memory.passed_s = half_s
    plan = planned(memory, request_id="3")
    assert (plan.sent.method, plan.body) == ("PATCH", {"ttl": f"{TTL_S}s"})
    assert plan.sent.url == "https://gemini.example/v1beta/cachedContents/one?updateMask=ttl"
    assert cache_of(plan.answer(MADE).result) == "cachedContents/one"
    assert not plan.result.writes_cache
    assert memory.left_s(plan.result.assumes["cache"]) == pytest.approx(TTL_S - MARGIN_S - memory.passed_s, abs=5)


def test_a_cache_that_cannot_be_renewed_is_done_without() -> None:
    memory = Timed()
    made(memory)
    memory.passed_s = TTL_S / 2
    assert cache_of(planned(memory).answer(error(403, GONE)).result) is None


def test_a_cache_that_has_expired_is_made_anew_before_the_provider_forgets_it() -> None:
    memory = Timed()
    made(memory)
    memory.passed_s = TTL_S - MARGIN_S
    assert (planned(memory).sent.method, planned(memory).sent.url[-14:]) == ("POST", "cachedContents")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, GONE),
        (404, "Not found: cached content metadata for 7352260532100923392."),
        (400, "Cache content 7352260532100923392 is expired."),
    ],
)
def test_a_cache_that_is_gone_is_disproved_however_the_provider_words_it(status: int, words: str) -> None:
    assert PROVIDER.failure(vertex(), error(status, words)).disproves == "cache"


def test_once_disproved_the_cache_is_done_without() -> None:
    memory = BoundedMemory()
    memory.put(made(memory).assumes["cache"], DISPROVED, 60)
    assert cache_of(read(memory)) is None


def test_a_token_that_is_refused_says_nothing_about_the_prefix() -> None:
    memory = BoundedMemory()
    plan = planned(memory, supplier=vertex()).answer(granted())
    with pytest.raises(Failed) as failed:
        plan.answer(error(401, "no"))
    assert failed.value.disproves == "token"
    again = planned(memory, supplier=vertex()).answer(granted("ya29.two"))
    assert again.sent.url.endswith("/cachedContents")
    assert again.sent.headers["authorization"] == "Bearer ya29.two"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hi"}],
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]}],
    ],
    ids=["no system", "no breakpoint", "breakpoint elsewhere"],
)
def test_nothing_is_cached_without_a_breakpoint_on_a_system_part(messages: list[Any]) -> None:
    assert cache_of(read(BoundedMemory(), messages=messages)) is None


def test_the_number_of_caches_that_are_remembered_is_bounded() -> None:
    memory = BoundedMemory(most=1)
    made(memory, workspace="one")
    made(memory, workspace="two")
    assert cache_of(read(memory, workspace="two")) is not None
    assert planned(memory, workspace="one").sent.url.endswith("/cachedContents")
