"""The Anthropic half, judged by Anthropic's own client and by the grammar of its streams."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import orjson
import pytest

from shared.sse import Decoder
from tests.unit.simulator.peers import CLAUDE, Peer

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


async def test_an_unknown_model_is_not_found(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model: gpt-4"):
        await client.messages.create(model="gpt-4", max_tokens=1, messages=HI)


async def test_an_alias_is_answered_under_its_dated_name(simulator: Peer) -> None:
    assert (await simulator.claude(model=HAIKU)).json["model"] == "claude-haiku-4-5-20251001"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.upstream.sse")), ids=lambda path: path.stem)
def test_golden_streams_and_ours_keep_one_grammar(path: Path) -> None:
    names = [event.name for event in Decoder().feed(path.read_bytes()) if f"{event.name} " in GRAMMAR.pattern]
    names = names[names.count("message_start") - 1 :]  # one was recorded that began twice
    finished = "message_stop" in names
    assert bool(GRAMMAR.fullmatch(" ".join(names) + " ")) == finished
