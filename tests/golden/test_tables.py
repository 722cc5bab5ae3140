"""The tables by which a request's reasoning and a provider's last word are translated, row by row, for every model."""

import json
from typing import Any

import pytest

from services.workers import anthropic, google
from services.workers.provider import UpstreamReply, UpstreamRequest
from shared import catalog
from shared.bodies import parse
from shared.openai import ChatRequest

CATALOG = catalog.load()
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
HAIKU, SONNET, OPUS = ("anthropic/claude-haiku-4-5", "anthropic/claude-sonnet-4-6", "anthropic/claude-opus-4-7")
PRO, FLASH, LITE, PRO_3 = (f"google/gemini-{name}" for name in ("2.5-pro", "3-flash", "3.1-flash-lite", "3.1-pro"))


def asked(model: str, **members: Any) -> ChatRequest:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **members}
    return parse(ChatRequest, json.dumps(body).encode())


def by_anthropic(model: str, **members: Any) -> tuple[Any, Any]:
    """The budget or the kind of thinking, and the effort."""
    body = anthropic.request.body(asked(model, **members), CATALOG[model])
    thinking = body.get("thinking", {})
    return thinking.get("budget_tokens", thinking.get("type")), body.get("output_config", {}).get("effort")


def by_google(model: str, **members: Any) -> Any:
    """The budget or the level."""
    config = google.request.body(asked(model, **members), CATALOG[model]).get("generationConfig", {})
    thinking = config.get("thinkingConfig", {})
    return thinking.get("thinkingBudget", thinking.get("thinkingLevel"))


@pytest.mark.parametrize(
    ("model", "row"),
    [
        ("anthropic/claude-haiku-4-5", [None, 1_024, 2_000, 5_000, 8_000, 9_500, 9_500]),
        ("anthropic/claude-sonnet-4-5", [None, 1_024, 2_000, 5_000, 8_000, 9_500, 9_500]),
        ("anthropic/claude-sonnet-4-6", [None, "low", "low", "medium", "high", "high", "max"]),
        ("anthropic/claude-opus-4-6", [None, "low", "low", "medium", "high", "high", "max"]),
        ("anthropic/claude-opus-4-7", [None, "low", "low", "medium", "high", "xhigh", "max"]),
    ],
)
def test_an_effort_becomes_the_size_of_claudes_thinking(model: str, row: list[Any]) -> None:
    found = [by_anthropic(model, max_tokens=10_000, reasoning_effort=effort) for effort in EFFORTS]
    sizes = [size if size is None or isinstance(size, int) else ("adaptive", size) for size in row]
    assert [
        effort and ("adaptive", effort) if thinking == "adaptive" else thinking for thinking, effort in found
    ] == sizes


@pytest.mark.parametrize(
    ("model", "row"),
    [
        (PRO, [None, 128, 1_024, 8_192, 24_576, 32_768, 32_768]),
        (FLASH, ["MINIMAL", "MINIMAL", "LOW", "MEDIUM", "HIGH", "HIGH", "HIGH"]),
        (LITE, ["MINIMAL", "MINIMAL", "LOW", "MEDIUM", "HIGH", "HIGH", "HIGH"]),
        (PRO_3, ["LOW", "LOW", "LOW", "MEDIUM", "HIGH", "HIGH", "HIGH"]),
    ],
)
def test_an_effort_becomes_the_size_of_geminis_thinking(model: str, row: list[Any]) -> None:
    assert [by_google(model, reasoning_effort=effort) for effort in EFFORTS] == row


@pytest.mark.parametrize(
    ("model", "max_tokens", "wanted", "size"),
    [
        (HAIKU, 10_000, 3_000, (3_000, None)),
        (HAIKU, 10_000, 1, (1_024, None)),
        (HAIKU, 1_025, 9_000, (1_024, None)),
        (HAIKU, 1_024, 9_000, (None, None)),
        (SONNET, 10_000, 3_000, (3_000, None)),
        (OPUS, 10_000, 2_000, ("adaptive", "low")),
        (OPUS, 10_000, 2_001, ("adaptive", "medium")),
        (OPUS, 10_000, 5_000, ("adaptive", "medium")),
        (OPUS, 10_000, 8_000, ("adaptive", "high")),
        (OPUS, 10_000, 8_001, ("adaptive", "xhigh")),
    ],
)
@pytest.mark.parametrize("effort", [None, "none", "low"])
def test_a_number_of_tokens_wins_over_an_effort_on_claude(
    model: str, max_tokens: int, wanted: int, size: Any, effort: str | None
) -> None:
    reasoning = {"max_tokens": wanted, "effort": effort}
    assert by_anthropic(model, max_tokens=max_tokens, reasoning=reasoning) == size


@pytest.mark.parametrize(
    ("model", "wanted", "size"),
    [
        (PRO, 1, 128),
        (PRO, 5_000, 5_000),
        (PRO, 50_000, 32_768),
        (FLASH, 1_024, "LOW"),
        (FLASH, 1_025, "MEDIUM"),
        (PRO_3, 8_192, "MEDIUM"),
        (PRO_3, 8_193, "HIGH"),
    ],
)
@pytest.mark.parametrize("effort", [None, "none", "low"])
def test_a_number_of_tokens_wins_over_an_effort_on_gemini(
    model: str, wanted: int, size: Any, effort: str | None
) -> None:
    assert by_google(model, reasoning={"max_tokens": wanted, "effort": effort}) == size


@pytest.mark.parametrize(("max_tokens", "size"), [(100, 128), (1_000, 800), (100_000, 24_576)])
def test_a_gemini_budget_leaves_a_fifth_for_the_answer(max_tokens: int, size: int) -> None:
    assert by_google(PRO, reasoning_effort="high", max_tokens=max_tokens) == size


@pytest.mark.parametrize(
    ("members", "shown"),
    [
        ({}, None),
        ({"reasoning": {}}, True),
        ({"include_reasoning": True}, True),
        ({"include_reasoning": False}, None),
        ({"reasoning": {"enabled": False}}, None),
        ({"reasoning": {"exclude": True}}, False),
        ({"reasoning": {"effort": "low"}, "include_reasoning": False}, False),
    ],
)
def test_thoughts_are_shown_where_they_were_asked_for(members: Any, shown: bool | None) -> None:
    config = google.request.body(asked(FLASH, **members), CATALOG[FLASH]).get("generationConfig", {})
    thinking = config.get("thinkingConfig")
    assert (None if thinking is None else thinking.get("includeThoughts", False)) is shown
    blocks = anthropic.request.body(asked(OPUS, **members), CATALOG[OPUS]).get("thinking")
    assert (None if blocks is None else blocks["display"] == "summarized") is shown


CLAUDES = {
    "stop": ["end_turn", "stop_sequence", "pause_turn"],
    "length": ["max_tokens", "model_context_window_exceeded"],
    "tool_calls": ["tool_use"],
    "content_filter": ["refusal"],
}
GEMINIS = {
    "stop": ["STOP", "OTHER", "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE", "TOO_MANY_TOOL_CALLS", "NEVER_HEARD"],
    "length": ["MAX_TOKENS", "CONTINUATION"],
    "content_filter": [
        "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "IMAGE_OTHER",
        "NO_IMAGE", "ESCALATION", "MODEL_ARMOR",
    ],
}  # fmt: skip
SENT = UpstreamRequest("http://x", {}, b"")


def rows(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(native, reason) for reason, natives in table.items() for native in natives]


@pytest.mark.parametrize(("native", "reason"), rows(CLAUDES))
def test_claudes_last_word_after_text(native: str, reason: str) -> None:
    body = {"content": [{"type": "text", "text": "x"}], "stop_reason": native, "usage": {}}
    answer = anthropic.response.answer(asked(HAIKU), SENT, UpstreamReply(200, {}, json.dumps(body).encode()))
    assert (answer.finish.reason, answer.finish.native) == (reason, native)


@pytest.mark.parametrize(("native", "reason"), rows(GEMINIS))
def test_geminis_last_word_after_text(native: str, reason: str) -> None:
    body = {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": native}]}
    answer = google.response.answer(asked(FLASH), SENT, UpstreamReply(200, {}, json.dumps(body).encode()))
    assert (answer.finish.reason, answer.finish.native) == (reason, native)
