"""The Anthropic half, judged by Anthropic's own client and by what its wire forbids."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import orjson
import pytest

from services.simulator.anthropic.models import MODELS
from shared import catalog
from shared.sse import Decoder
from tests.unit.simulator.conftest import CLAUDE, Peer

GOLDEN = Path(__file__).parents[2] / "golden" / "anthropic"
HI: Any = [{"role": "user", "content": "안녕하세요, hello"}]
GRAMMAR = re.compile(
    r"message_start (content_block_start (content_block_delta )*content_block_stop )*message_delta message_stop "
)
OPUS = "claude-opus-4-7"
HAIKU = "claude-haiku-4-5"


@pytest.fixture
async def client(simulator: Peer) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        api_key="key", base_url=simulator.url, default_headers={"anthropic-version": "2023-06-01"}, max_retries=0
    ) as client:
        yield client


def text_of(message: Any) -> str:
    return "".join(block["text"] for block in message["content"] if block["type"] == "text")


async def test_the_official_client_reads_a_whole_answer(client: anthropic.AsyncAnthropic) -> None:
    answer = await client.messages.create(model=CLAUDE, max_tokens=100, messages=HI)
    block = answer.content[0]
    assert block.type == "text"
    assert "안녕하세요" in block.text
    assert (answer.stop_reason, answer.usage.output_tokens) == ("end_turn", -(-len(block.text.encode()) // 4))


async def test_the_official_client_reads_the_same_from_a_stream(client: anthropic.AsyncAnthropic) -> None:
    whole = await client.messages.create(model=CLAUDE, max_tokens=100, messages=HI)
    async with client.messages.stream(model=CLAUDE, max_tokens=100, messages=HI) as stream:
        streamed = await stream.get_final_message()
    assert [block.model_dump(include={"type", "text"}) for block in streamed.content] == [
        block.model_dump(include={"type", "text"}) for block in whole.content
    ]
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert streamed.usage.input_tokens == whole.usage.input_tokens


@pytest.mark.parametrize("prompt", [f"prompt {n}" for n in range(12)])
async def test_every_stream_obeys_the_grammar_of_events(simulator: Peer, prompt: str) -> None:
    answer = await simulator.claude(prompt, stream=True, thinking={"type": "adaptive"})
    known = [event.name for event in answer.events if event.name not in ("ping", "weather_report")]
    assert GRAMMAR.fullmatch(" ".join(known) + " ")
    assert all(orjson.loads(event.data)["type"] == event.name for event in answer.events)


async def test_streams_have_the_oddities_of_real_ones(simulator: Peer) -> None:
    bodies = b"".join([(await simulator.claude(f"prompt {n}", stream=True)).body for n in range(12)])
    assert re.search(rb"\}\s+\}\s+\n\n", bodies), "padded data lines"
    assert b"event: ping\n" in bodies
    assert b"event: weather_report\n" in bodies
    assert b'"usage":{"output_tokens":' in bodies, "usage that does not repeat the input"
    assert re.search(
        rb'"usage":{"input_tokens":\d+,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"out', bodies
    )


async def test_thinking_is_shown_signed_counted_and_told_apart(client: anthropic.AsyncAnthropic) -> None:
    thinking: Any = {"type": "adaptive", "display": "summarized"}
    async with client.messages.stream(model=OPUS, max_tokens=4000, messages=HI, thinking=thinking) as stream:
        answer = await stream.get_final_message()
    thought, text = answer.content
    assert thought.type == "thinking"
    assert thought.thinking
    assert thought.signature
    assert text.type == "text"
    assert answer.usage.output_tokens_details is not None
    assert 0 < answer.usage.output_tokens_details.thinking_tokens < answer.usage.output_tokens


async def test_omitted_thinking_costs_the_same_and_shows_nothing(simulator: Peer) -> None:
    shown, hidden = [
        (await simulator.claude(thinking={"type": "adaptive", "display": display})).json
        for display in ("summarized", "omitted")
    ]
    assert hidden["content"][0]["thinking"] == ""
    assert hidden["content"][0]["signature"]
    assert hidden["usage"] == shown["usage"]


async def test_the_limit_of_output_counts_thinking_and_text(simulator: Peer) -> None:
    answer = (await simulator.claude(max_tokens=5)).json
    assert (answer["stop_reason"], answer["usage"]["output_tokens"]) == ("max_tokens", 5)
    thoughtful = (await simulator.claude(max_tokens=5, thinking={"type": "adaptive"})).json
    assert [block["type"] for block in thoughtful["content"]] == ["thinking"]
    assert (thoughtful["stop_reason"], thoughtful["usage"]["output_tokens"]) == ("max_tokens", 5)


async def test_the_earliest_stop_sequence_ends_the_text_and_is_named(simulator: Peer) -> None:
    answer = (await simulator.claude("one STOP two END", stop_sequences=["END", "STOP"])).json
    assert text_of(answer).endswith("one ")
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "STOP")


async def test_a_marked_prefix_is_written_to_the_cache_by_its_life(simulator: Peer) -> None:
    system = [
        {"type": "text", "text": "a" * 8000, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "b" * 400, "cache_control": {"type": "ephemeral"}},
    ]
    usage = (await simulator.claude("c" * 40, system=system)).json["usage"]
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 2000}
    assert (usage["cache_creation_input_tokens"], usage["input_tokens"]) == (2100, 10)
    short = (await simulator.claude(system=[system[1]])).json["usage"]
    assert short["cache_creation_input_tokens"] == 0


async def test_a_json_schema_is_answered_with_its_json(simulator: Peer) -> None:
    wanted = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "kind": {"type": "string", "enum": ["ship", "person"]},
            "home": {"$ref": "#/$defs/place"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "additionalProperties": False,
        "$defs": {"place": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
    }
    answer = (await simulator.claude("Yi", output_config={"format": {"type": "json_schema", "schema": wanted}})).json
    assert orjson.loads(text_of(answer)) == {"name": "Yi", "kind": "ship", "home": 1, "tags": ["Yi"]}


def marked(blocks: int, **members: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"} | members}] * blocks


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": 200_000}, "max_tokens: 200000 > 128000, which is the maximum allowed"),
        ({"model": HAIKU, "max_tokens": 64_001}, "for claude-haiku-4-5-20251001"),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "first message must use"),
        ({"messages": [*HI, {"role": "assistant", "content": "I"}]}, "prefill"),
        ({"messages": [{"role": "user", "content": ""}]}, "text content blocks must be non-empty"),
        ({"messages": [{"role": "user", "content": []}]}, "non-empty content"),
        ({"model": HAIKU, "messages": [{"role": "user", "content": "x" * 800_004}]}, "200001 tokens > 200000 maximum"),
        ({"system": [{"type": "text", "text": ""}]}, "text content blocks must be non-empty"),
        ({"system": marked(5)}, "Found 5"),
        ({"system": marked(1) + marked(1, ttl="1h")}, "must not come after"),
        ({"temperature": 1.5}, "temperature: "),
        ({"temperature": 0.5, "top_p": 0.5}, "cannot both be specified"),
        ({"model": OPUS, "temperature": 0.5}, "`temperature` is not supported"),
        ({"model": OPUS, "top_k": 5}, "`top_k` is not supported"),
        ({"thinking": {"type": "adaptive"}, "temperature": 0.5}, "may only be set to 1"),
        ({"thinking": {"type": "adaptive"}, "top_k": 5}, "`top_k` must be unset"),
        ({"thinking": {"type": "adaptive"}, "top_p": 0.9}, "`top_p` must be"),
        ({"model": HAIKU, "thinking": {"type": "adaptive"}}, "adaptive thinking is not supported"),
        ({"model": OPUS, "thinking": {"type": "enabled", "budget_tokens": 1024}}, '"thinking.type.enabled"'),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "budget_tokens"),
        ({"thinking": {"type": "enabled"}}, "budget_tokens: Field required"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "must be greater than"),
        ({"model": HAIKU, "output_config": {"effort": "low"}}, "effort"),
        ({"output_config": {"effort": "xhigh"}}, "'xhigh'. Supported levels: high, low, max, medium."),
        ({"stop_sequences": [" "]}, "non-whitespace"),
        ({"logit_bias": {}}, "logit_bias: Extra inputs are not permitted"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, "additionalProperties"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"minLength": 1}}}}, "minLength"),
    ],
)
async def test_what_the_api_forbids_is_refused_in_its_words(
    simulator: Peer, members: dict[str, Any], complaint: str
) -> None:
    answer = await simulator.claude(**members)
    assert answer.status == 400
    assert answer.json["type"] == "error"
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert complaint in answer.json["error"]["message"]
    assert answer.json["request_id"] == answer.headers["request-id"]
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"anthropic-version": "2023-06-01"}, 401, "authentication_error"),
        ({"anthropic-version": "2023-06-01", "x-api-key": "invalid"}, 401, "authentication_error"),
        ({"x-api-key": "key"}, 400, "invalid_request_error"),
        ({"x-api-key": "key", "anthropic-version": "2026-10-21"}, 400, "invalid_request_error"),
    ],
)
async def test_key_and_version_are_asked_for(simulator: Peer, headers: dict[str, str], status: int, kind: str) -> None:
    answer = await simulator.claude(headers=headers)
    assert (answer.status, answer.json["error"]["type"]) == (status, kind)


async def test_an_unknown_model_is_not_found(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model: gpt-4"):
        await client.messages.create(model="gpt-4", max_tokens=1, messages=HI)


@pytest.mark.parametrize("body", [b"{", b"[]", b"[" * 100_000, b'"\\ud800"', b"\xff"])
async def test_a_body_that_is_no_request_is_refused(simulator: Peer, body: bytes) -> None:
    headers = {"x-api-key": "key", "anthropic-version": "2023-06-01"}
    async with simulator.session.post(f"{simulator.url}/v1/messages", data=body, headers=headers) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_an_alias_is_answered_under_its_dated_name(simulator: Peer) -> None:
    assert (await simulator.claude(model=HAIKU)).json["model"] == "claude-haiku-4-5-20251001"


def test_every_claude_of_the_catalog_is_simulated_with_its_limits() -> None:
    for model in catalog.load():
        if model.provider == "anthropic":
            simulated = MODELS[model.upstream]
            assert (simulated.context, simulated.max_output) == (model.context_length, model.max_output_tokens)


def golden_requests() -> list[Any]:
    exchanges = [(path, orjson.loads(path.read_bytes())) for path in sorted(GOLDEN.glob("*.json"))]
    return [
        pytest.param(call["request"], call["headers"], id=path.stem)
        for path, exchange in exchanges
        for call in exchange.get("upstream", [])
    ]


@pytest.mark.parametrize(("request_", "headers"), golden_requests())
async def test_every_request_of_the_golden_exchanges_is_accepted(
    simulator: Peer, request_: Any, headers: dict[str, str]
) -> None:
    answer = await simulator.post("/v1/messages", request_, headers)
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.upstream.sse")), ids=lambda path: path.stem)
def test_golden_streams_and_ours_keep_one_grammar(path: Path) -> None:
    names = [
        event.name for event in Decoder().feed(path.read_bytes()) if event.name not in ("ping", "some_future_event")
    ]
    finished = "message_stop" in names
    assert bool(GRAMMAR.fullmatch(" ".join(names) + " ")) == finished
