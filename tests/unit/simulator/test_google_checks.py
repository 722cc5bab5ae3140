"""What the Google half refuses, and that it takes whatever the golden exchanges send."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from services.simulator.google.models import CHAT_MODELS, CONTEXT_TOKENS, EMBEDDING_MODELS, MAX_OUTPUT_TOKENS
from shared import catalog
from tests.unit.simulator.peers import ASK, CALL, EMBEDDER, GEMINI, RESULT, SIGNED, WEATHER, Peer, history

GOLDEN = Path(__file__).parents[2] / "golden" / "google"
PRO = "gemini-3.1-pro-preview"
OLD = "gemini-2.5-pro"


@pytest.mark.parametrize(
    ("model", "members", "complaint"),
    [
        (GEMINI, {"contents": []}, "contents"),
        (GEMINI, {"contents": [{"role": "system", "parts": ASK}]}, "valid role"),
        (GEMINI, {"contents": [{"parts": [{}]}]}, "exactly one initialized field"),
        (GEMINI, {"contents": [{"parts": [{"text": "x" * (4 * CONTEXT_TOKENS + 1)}]}]}, "input token count exceeds"),
        (GEMINI, {"frequency": 1}, 'Unknown name "frequency"'),
        (GEMINI, {"generationConfig": {"stopSequences": list("abcdef")}}, "stop"),
        (GEMINI, {"generationConfig": {"temperature": 2.5}}, "temperature"),
        (GEMINI, {"generationConfig": {"maxOutputTokens": 65_537}}, "maxOutputTokens"),
        (GEMINI, {"generationConfig": {"presencePenalty": 0.5}}, "Penalty is not enabled for this model"),
        (GEMINI, {"generationConfig": {"seed": 7}}, "Seed is not enabled"),
        (OLD, {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}, "thinking budget 0"),
        (OLD, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}}, "level LOW is not supported"),
        (PRO, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "MINIMAL"}}}, "level MINIMAL is not supported"),
        (GEMINI, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "thinkingBudget": 128}}}, "only one"),
        (GEMINI, {"generationConfig": {"responseJsonSchema": {}}}, "application/json"),
        (GEMINI, {"cachedContent": "cachedContents/x", "tools": [WEATHER]}, "CachedContent can not be used"),
        (GEMINI, history(ASK, [CALL], [RESULT]), "missing a thought_signature"),
        (GEMINI, history(ASK, [SIGNED, CALL], [RESULT]), "number of function response parts"),
        (OLD, history(ASK, [CALL], [RESULT, {"text": "and?"}]), "number of function response parts"),
        (GEMINI, {"tools": [WEATHER], "contents": [{"parts": [{"text": "[[call=nope]]"}]}]}, "'nope' is not declared"),
    ],
)
async def test_what_the_api_forbids_is_refused_in_its_words(
    simulator: Peer, model: str, members: dict[str, Any], complaint: str
) -> None:
    answer = await simulator.gemini(model=model, **members)
    assert answer.status == 400
    assert (answer.json["error"]["code"], answer.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert complaint in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"type": "object", "properties": {"const": {"const": 1}}}, "Unknown keyword in JSON schema: const"),
        ({"anyOf": [{"$ref": "#/$defs/a", "title": "x"}]}, "$ref"),
    ],
)
async def test_schemas_are_held_to_the_keywords_that_the_api_lists(
    simulator: Peer, schema: dict[str, Any], complaint: str
) -> None:
    config = {"responseMimeType": "application/json", "responseJsonSchema": schema}
    answer = await simulator.gemini(generationConfig=config)
    assert answer.status == 400
    assert complaint in answer.json["error"]["message"]
    function = {"name": "f", "parametersJsonSchema": schema}
    assert (await simulator.gemini(tools=[{"functionDeclarations": [function]}])).status == 400


@pytest.mark.parametrize(
    ("key", "status", "code"), [(None, 403, "PERMISSION_DENIED"), ("invalid", 400, "INVALID_ARGUMENT")]
)
async def test_the_key_is_asked_for(simulator: Peer, key: str | None, status: int, code: str) -> None:
    headers = {"x-goog-api-key": key} if key else {}
    answer = await simulator.post(f"/v1beta/models/{GEMINI}:generateContent", {}, headers)
    assert (answer.status, answer.json["error"]["status"]) == (status, code)
    assert (b"API_KEY_INVALID" in answer.body) == (key == "invalid")


@pytest.mark.parametrize("method", ["gpt-4:generateContent", f"{EMBEDDER}:generateContent", f"{GEMINI}:embed"])
async def test_what_does_not_exist_is_not_found(simulator: Peer, method: str) -> None:
    answer = await simulator.google(method, {"contents": [{"parts": ASK}]})
    assert (answer.status, answer.json["error"]["status"]) == (404, "NOT_FOUND")


async def test_a_route_that_is_not_simulated_is_refused_in_googles_form(simulator: Peer) -> None:
    answer = await simulator.post("/v1beta/files", {}, {"x-goog-api-key": "key"})
    assert (answer.status, answer.json["error"]["status"]) == (404, "NOT_FOUND")


async def test_the_older_generation_takes_penalties_and_a_seed(simulator: Peer) -> None:
    config: dict[str, Any] = {"generationConfig": {"presencePenalty": 0.3, "frequency_penalty": 0.2, "seed": 7}}
    assert (await simulator.gemini(model=OLD, **config)).status == 200
    refused = await simulator.gemini("[[no_penalties]]", model=OLD, **config)
    assert (refused.status, refused.json["error"]["message"]) == (400, "Penalty is not enabled for this model")
    assert (await simulator.gemini("[[no_penalties]]", model=OLD)).status == 200


def test_every_gemini_of_the_catalog_is_simulated_with_its_limits() -> None:
    for model in catalog.load():
        if model.provider == "google" and model.max_output_tokens:
            assert model.upstream in CHAT_MODELS
            assert (model.context_length, model.max_output_tokens) == (CONTEXT_TOKENS, MAX_OUTPUT_TOKENS)
        elif model.provider == "google":
            assert model.upstream in EMBEDDING_MODELS


def golden_requests() -> list[Any]:
    exchanges = [(path, orjson.loads(path.read_bytes())) for path in sorted(GOLDEN.glob("*.json"))]
    return [
        pytest.param(call["url"].partition("/models/")[2], call["request"], id=f"{path.stem}-{n}")
        for path, exchange in exchanges
        for n, call in enumerate(exchange.get("upstream", []))
        if call["response"]["status"] == 200 and "/models/" in call["url"] and "cachedContent" not in call["request"]
    ]


@pytest.mark.parametrize(("method", "request_"), golden_requests())
async def test_every_request_that_a_golden_exchange_answers_is_accepted(
    simulator: Peer, method: str, request_: Any
) -> None:
    answer = await simulator.google(method, request_)
    assert answer.status == 200, answer.body
