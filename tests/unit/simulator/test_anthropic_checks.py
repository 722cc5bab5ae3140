"""What the Anthropic half refuses, and that it takes whatever the golden exchanges send."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from services.simulator.anthropic.models import MODELS
from shared import catalog
from tests.unit.simulator.peers import Peer

GOLDEN = Path(__file__).parents[2] / "golden" / "anthropic"
HI: Any = [{"role": "user", "content": "hi"}]
OPUS = "claude-opus-4-7"
HAIKU = "claude-haiku-4-5"


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


@pytest.mark.parametrize("body", [b"{", b"[]", b"[" * 100_000, b'"\\ud800"', b"\xff"])
async def test_a_body_that_is_no_request_is_refused(simulator: Peer, body: bytes) -> None:
    headers = {"x-api-key": "key", "anthropic-version": "2023-06-01"}
    async with simulator.session.post(f"{simulator.url}/v1/messages", data=body, headers=headers) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


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
        if call["response"]["status"] == 200
    ]


@pytest.mark.parametrize(("request_", "headers"), golden_requests())
async def test_every_request_that_a_golden_exchange_answers_is_accepted(
    simulator: Peer, request_: Any, headers: dict[str, str]
) -> None:
    answer = await simulator.post("/v1/messages", request_, headers)
    assert answer.status == 200, answer.body
