"""Every golden stream with one event missing, each in turn: a clean end in-band, or an answer that claims no more than
was told. What was told is added up here a second time, plainly, from the events that are left.
"""

import json
import re
from typing import Any

import pytest

from services.workers.provider import Usage
from shared.sse import Decoder
from tests.golden.exchanges import Exchange, said
from tests.golden.playing import Played, play, streamed
from tests.golden.test_pure import STREAMED

EVENT_END = re.compile(rb"(?<=\r\n\r\n)|(?<=\n\n)")
Counts = tuple[int, int]
"""Tokens of the prompt and of the answer."""


def told_by_anthropic(events: list[dict[str, Any]]) -> Counts:
    """The newest value of each field, wherever it stood."""
    newest: dict[str, int] = {}
    for event in events:
        for counts in (event.get("message", {}).get("usage"), event.get("usage")):
            newest |= {name: value for name, value in (counts or {}).items() if value is not None}
    prompt = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return sum(newest.get(name, 0) for name in prompt), newest.get("output_tokens", 0)


def told_by_google(events: list[dict[str, Any]]) -> Counts:
    """The last value of each field that is not empty."""
    newest: dict[str, int] = {}
    for event in events:
        newest |= {name: value for name, value in event.get("usageMetadata", {}).items() if value}
    prompt = newest.get("promptTokenCount", 0) + newest.get("toolUsePromptTokenCount", 0)
    return prompt, newest.get("candidatesTokenCount", 0) + newest.get("thoughtsTokenCount", 0)


TOLD = {"anthropic": told_by_anthropic, "google": told_by_google}


def pieces(exchange: Exchange, played: Played) -> list[bytes]:
    """The upstream stream, event by event."""
    return [piece for piece in EVENT_END.split(exchange.bytes_of(played.last["response"])) if piece]


def told(played: Played, left: list[bytes]) -> Counts:
    events = [json.loads(event.data) for event in Decoder().feed(b"".join(left))]
    return TOLD[played.provider.name](events)


def counts_of(usage: Usage) -> Counts:
    return usage.tokens.prompt, usage.tokens.output


@pytest.mark.parametrize("exchange", STREAMED)
def test_what_a_whole_stream_tells_is_what_is_counted(exchange: Exchange) -> None:
    played = play(exchange)
    events = pieces(exchange, played)
    _, usage, _ = streamed(played, events)
    assert counts_of(usage) == told(played, events)


@pytest.mark.parametrize("exchange", STREAMED)
def test_with_any_event_missing_the_end_is_clean_and_no_count_is_made_up(exchange: Exchange) -> None:
    played = play(exchange)
    events = pieces(exchange, played)
    golden = said(exchange.bytes_of(exchange.answer))
    for number in range(len(events)):
        left = events[:number] + events[number + 1 :]
        client, usage, stream = streamed(played, left)
        summary = said(client)
        check_words(summary, golden)
        if "error" in summary:
            check_broken(client, summary)
            continue
        assert stream.finish is not None
        assert [kind for kind in summary["order"] if kind != "model"][-3:] == ["finish", "usage", "done"]
        check_counts(usage, told(played, left))


def check_words(summary: dict[str, Any], golden: dict[str, Any]) -> None:
    """Nothing is said that the whole stream does not say, and nothing in another order."""
    for kind in ("content", "reasoning"):
        assert is_within(summary[kind], golden[kind])
    calls = summary["tool_calls"]
    assert is_within([call["function"] for call in calls], [call["function"] for call in golden["tool_calls"]])
    assert [call["index"] for call in calls] == list(range(len(calls)))


def is_within(part: Any, whole: Any) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)


def check_broken(client: bytes, summary: dict[str, Any]) -> None:
    assert summary["error"]["message"].startswith("stream interrupted: ")
    assert summary["order"][-2:] == ["error", "done"]
    assert {"finish", "usage"}.isdisjoint(summary["order"])
    assert client.count(b"data: [DONE]") == 1


def check_counts(usage: Usage, counts: Counts) -> None:
    """What was told stands; where the prompt, or all of the answer, was not told, the record says so."""
    if 0 not in counts:
        assert counts_of(usage) == counts
        assert not usage.estimated
        return
    for counted, count in zip(counts_of(usage), counts, strict=True):
        assert counted >= count
    assert usage.estimated or counts_of(usage) == counts
