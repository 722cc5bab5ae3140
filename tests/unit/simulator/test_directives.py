"""Each directive does what the table of the README says, on both wires, whole and streamed."""

import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from services.simulator import anthropic
from services.simulator.directives import DirectiveError, parse, without
from services.simulator.google.directives import GoogleDirectives
from tests.unit.simulator.peers import Answer, Peer

README = Path(anthropic.__file__).parents[1] / "README.md"
BOTH = pytest.mark.parametrize("provider", ["claude", "gemini"])


async def ask(simulator: Peer, provider: str, prompt: str, *, stream: bool = False) -> Answer:
    answer: Answer = await getattr(simulator, provider)(prompt, stream=stream)
    return answer


def spoken(answer: Answer) -> str:
    """The text in a stream of either wire."""
    said = ""
    for data in (orjson.loads(event.data) for event in answer.events):
        said += data.get("delta", {}).get("text", "")
        for candidate in data.get("candidates", []):
            said += "".join(part["text"] for part in candidate["content"].get("parts", []) if "text" in part)
    return said


def finished(answer: Answer) -> bool:
    return b'"stop_reason":"' in answer.body or b"finishReason" in answer.body


def output_tokens(answer: Answer) -> int:
    usage = answer.json.get("usage") or answer.json["usageMetadata"]
    count: int = usage.get("output_tokens") or usage["candidatesTokenCount"]
    return count


@BOTH
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503, 504])
async def test_a_status_is_answered_in_the_providers_form(simulator: Peer, provider: str, status: int) -> None:
    for stream in (False, True):
        answer = await ask(simulator, provider, f'[[status={status} message="as told"]]', stream=stream)
        assert answer.status == status
        assert answer.json["error"]["message"] == "as told"
        assert answer.json["error"].get("code", status) == status


async def test_claude_tells_in_headers_when_to_come_back(simulator: Peer) -> None:
    answer = await simulator.claude("[[status=429 retry_after=2.5]]")
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["x-should-retry"] == "true"
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "0"
    overloaded = await simulator.claude("[[status=529]]")
    assert overloaded.json["error"] == {"type": "overloaded_error", "message": "Overloaded"}
    assert "retry-after" not in overloaded.headers


async def test_gemini_tells_in_details_when_to_come_back(simulator: Peer) -> None:
    answer = await simulator.gemini("[[status=429 retry_after=3]]")
    quota, retry = answer.json["error"]["details"]
    assert "PerMinute" in quota["violations"][0]["quotaId"]
    assert retry["retryDelay"] == "3s"
    assert "retry-after" not in answer.headers


async def test_hard_limits_have_their_own_form(simulator: Peer) -> None:
    daily = await simulator.gemini("[[daily_quota]]")
    assert (daily.status, b"PerDay" in daily.body) == (429, True)
    spent = await simulator.claude("[[spend_limit]]")
    assert (spent.status, spent.json["error"]["type"]) == (429, "rate_limit_error")
    assert spent.json["error"]["details"]["error_code"] == "enforced_spend_limit_reached"
    assert "retry-after" not in spent.headers


async def test_a_key_can_be_refused(simulator: Peer) -> None:
    assert (await simulator.claude("[[key_invalid]]")).status == 401
    refused = await simulator.gemini("[[key_invalid]]")
    assert (refused.status, refused.json["error"]["details"][0]["reason"]) == (400, "API_KEY_INVALID")


@BOTH
@pytest.mark.parametrize("fault", ["status=503", "key_invalid", "truncate", "eof"])
async def test_the_first_attempts_fail_and_the_next_succeeds(simulator: Peer, provider: str, fault: str) -> None:
    prompt = f"[[fail_first=2 {fault}]]"
    answers = [await ask(simulator, provider, prompt, stream=True) for _ in range(4)]
    assert [answer.status == 200 and finished(answer) for answer in answers] == [False, False, True, True]
    assert not finished(await ask(simulator, provider, prompt + " another body", stream=True))


async def test_failing_first_without_a_fault_means_500(simulator: Peer) -> None:
    assert [(await simulator.gemini("[[fail_first=1]]")).status for _ in range(2)] == [500, 200]


@BOTH
async def test_an_error_in_the_middle_ends_the_stream(simulator: Peer, provider: str) -> None:
    answer = await ask(simulator, provider, "[[midstream_error=3 chunks=9]]", stream=True)
    whole = await ask(simulator, provider, "[[chunks=9]]", stream=True)
    assert not answer.broken
    assert "error" in orjson.loads(answer.events[-1].data)
    assert not finished(answer)
    assert 0 < len(spoken(answer)) < len(spoken(whole))


@BOTH
async def test_a_whole_answer_has_no_middle_so_it_fails_at_once(simulator: Peer, provider: str) -> None:
    assert (await ask(simulator, provider, "[[midstream_error]]")).status in (503, 529)


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_a_truncated_answer_breaks_off_inside_an_event(simulator: Peer, provider: str, *, stream: bool) -> None:
    answer = await ask(simulator, provider, "[[truncate]]", stream=stream)
    assert (answer.status, answer.broken) == (200, True)
    assert not answer.body.endswith(b"\n")


@BOTH
async def test_an_end_without_a_finish_looks_like_a_clean_one(simulator: Peer, provider: str) -> None:
    answer = await ask(simulator, provider, "[[eof=2]]", stream=True)
    assert (answer.status, answer.broken, finished(answer)) == (200, False, False)
    assert spoken(answer)
    buffered = await ask(simulator, provider, "[[eof]]")
    assert not buffered.broken
    with pytest.raises(orjson.JSONDecodeError):
        _ = buffered.json


@BOTH
async def test_delays_are_kept(simulator: Peer, provider: str) -> None:
    started = time.monotonic()
    await ask(simulator, provider, "[[delay_ms=50]]")
    assert time.monotonic() - started >= 0.05
    started = time.monotonic()
    await ask(simulator, provider, "[[chunk_delay_ms=10 chunks=5]]", stream=True)
    assert time.monotonic() - started >= 0.05


@BOTH
@pytest.mark.parametrize("tokens", [1, 7, 200])
async def test_as_many_tokens_as_wanted_are_answered(simulator: Peer, provider: str, tokens: int) -> None:
    assert output_tokens(await ask(simulator, provider, f"[[tokens={tokens}]]")) == tokens


@BOTH
async def test_as_many_chunks_as_wanted_are_streamed(simulator: Peer, provider: str) -> None:
    answer = await ask(simulator, provider, "[[chunks=50]]", stream=True)
    data = [orjson.loads(event.data) for event in answer.events]
    texts = [one for one in data if one.get("delta", {}).get("text") or b'"text":""' not in orjson.dumps(one)]
    assert len([one for one in texts if one.get("type", "content_block_delta") == "content_block_delta"]) == 50


async def test_the_finish_is_the_word_that_was_asked_for(simulator: Peer) -> None:
    refusal = (await simulator.claude("[[finish=refusal]]")).json
    assert (refusal["stop_reason"], refusal["content"], refusal["usage"]["output_tokens"]) == ("refusal", [], 0)
    assert refusal["stop_details"]["type"] == "refusal"
    assert (await simulator.claude("[[finish=pause_turn]]")).json["stop_reason"] == "pause_turn"
    safety = (await simulator.gemini("[[finish=SAFETY]]")).json["candidates"][0]
    assert safety == {"content": {}, "finishReason": "SAFETY", "index": 0}
    other = await simulator.gemini("[[finish=OTHER]]", stream=True)
    assert spoken(other)
    assert b'"finishReason":"OTHER"' in other.body


async def test_a_blocked_prompt_has_no_candidates_and_costs_its_input(simulator: Peer) -> None:
    for stream in (False, True):
        answer = await simulator.gemini("[[blocked]]", stream=stream)
        data = orjson.loads(answer.events[0].data) if stream else answer.json
        assert data["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}
        assert "candidates" not in data
        assert data["usageMetadata"]["promptTokenCount"] == data["usageMetadata"]["totalTokenCount"]


async def test_cached_tokens_are_counted_as_each_provider_counts_them(simulator: Peer) -> None:
    claude, plain = [(await simulator.claude(f"[[cached={n}]]")).json["usage"] for n in (1280, 1000)]
    assert claude["cache_read_input_tokens"] == 1280
    assert claude["input_tokens"] == plain["input_tokens"]
    gemini = (await simulator.gemini("[[cached=1280]]")).json["usageMetadata"]
    assert gemini["cachedContentTokenCount"] == 1280
    assert gemini["promptTokenCount"] == 1280 + 4


@BOTH
async def test_usage_can_be_withheld(simulator: Peer, provider: str) -> None:
    for stream in (False, True):
        answer = await ask(simulator, provider, "[[no_usage]]", stream=stream)
        assert answer.status == 200
        assert b"usage" not in answer.body.lower().replace(b"[[no_usage]]", b"")


async def test_counts_that_are_withheld_cannot_be_asked_for_either(simulator: Peer) -> None:
    body = {"contents": [{"parts": [{"text": "text [[no_usage]]"}]}]}
    assert (await simulator.google("gemini-embedding-001:countTokens", body)).status == 503


@BOTH
@pytest.mark.parametrize(
    ("directive", "complaint"),
    [("stauts=429", "unknown directive 'stauts'"), ("status=200", "directive status"), ("tokens", "directive tokens")],
)
async def test_a_misspelt_directive_is_refused(simulator: Peer, provider: str, directive: str, complaint: str) -> None:
    answer = await ask(simulator, provider, f"[[{directive}]]")
    assert answer.status == 400
    assert complaint in answer.json["error"]["message"]


def test_directives_are_taken_out_of_the_text_that_is_echoed() -> None:
    assert without("say [[tokens=3]] this [[no_usage]]") == "say  this"
    assert parse(anthropic.AnthropicDirectives, "[[tokens=3]] and [[no_usage chunks=2]]").chunks == 2


def test_each_provider_knows_only_its_own() -> None:
    with pytest.raises(DirectiveError, match="daily_quota"):
        parse(anthropic.AnthropicDirectives, "[[daily_quota]]")
    with pytest.raises(DirectiveError, match="spend_limit"):
        parse(GoogleDirectives, "[[spend_limit]]")


def test_the_readme_names_every_directive() -> None:
    text = README.read_text("utf-8")
    known: Any = anthropic.AnthropicDirectives.model_fields | GoogleDirectives.model_fields
    assert [name for name in known if f"`{name}" not in text] == []
