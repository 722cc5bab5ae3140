"""The Google half, judged by Google's own client and by what its wire forbids."""

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from google import genai
from google.genai import errors, types

from services.simulator.google.models import CHAT_MODELS, CONTEXT_TOKENS, EMBEDDING_MODELS, MAX_OUTPUT_TOKENS
from shared import catalog
from tests.unit.simulator.conftest import GEMINI, Peer

# google-genai subclasses aiohttp's session, which aiohttp discourages
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

GOLDEN = Path(__file__).parents[2] / "golden" / "google"
PRO = "gemini-3.1-pro-preview"
OLD = "gemini-2.5-pro"
EMBEDDER = "gemini-embedding-001"
WEATHER: dict[str, Any] = {
    "functionDeclarations": [
        {"name": "get_weather", "parametersJsonSchema": {"type": "object", "properties": {"city": {"type": "string"}}}},
        {"name": "get_time"},
    ]
}
CALL: dict[str, Any] = {"functionCall": {"name": "get_weather", "args": {"city": "Seoul"}}}
RESULT = {"functionResponse": {"name": "get_weather", "response": {"temp_c": 3}}}


@pytest.fixture
async def client(simulator: Peer) -> AsyncIterator[genai.client.AsyncClient]:
    options = types.HttpOptions(base_url=simulator.url, api_version="v1beta")
    with genai.Client(api_key="key", http_options=options) as client:
        async with client.aio as asynchronous:
            yield asynchronous


async def chunks(simulator: Peer, prompt: str = "Hello", **members: Any) -> list[Any]:
    answer = await simulator.gemini(prompt, stream=True, **members)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.body.count(b"\r\n\r\n") == len(answer.events)
    return [orjson.loads(event.data) for event in answer.events]


def parts(chunk: Any) -> Any:
    return chunk["candidates"][0]["content"].get("parts", [])


async def test_the_official_client_reads_the_same_whole_and_streamed(client: genai.client.AsyncClient) -> None:
    whole = await client.models.generate_content(model=GEMINI, contents="안녕하세요, hello")
    stream = await client.models.generate_content_stream(model=GEMINI, contents="안녕하세요, hello")
    streamed = [chunk async for chunk in stream]
    assert whole.text is not None
    assert "안녕하세요" in whole.text
    assert "".join(chunk.text or "" for chunk in streamed) == whole.text
    assert streamed[-1].usage_metadata == whole.usage_metadata
    assert whole.candidates is not None
    assert whole.candidates[0].finish_reason == types.FinishReason.STOP


async def test_usage_is_cumulative_on_every_chunk_and_the_finish_comes_last_and_empty(simulator: Peer) -> None:
    seen = await chunks(simulator, "[[chunks=6]]")
    counts = [chunk["usageMetadata"].get("candidatesTokenCount", 0) for chunk in seen]
    assert len(seen) == 7
    assert counts == sorted(counts)
    assert [("finishReason" in chunk["candidates"][0]) for chunk in seen] == [False] * 6 + [True]
    assert parts(seen[-1])[0]["text"] == ""
    for chunk in seen:
        usage = chunk["usageMetadata"]
        total = sum(usage.get(f"{kind}TokenCount", 0) for kind in ("prompt", "candidates", "thoughts"))
        assert usage["totalTokenCount"] == total


async def test_models_think_unasked_and_show_it_only_when_asked(simulator: Peer) -> None:
    quiet = (await simulator.gemini()).json
    assert quiet["usageMetadata"]["thoughtsTokenCount"] > 0
    assert not any("thought" in part for part in parts(quiet))
    shown = await chunks(simulator, generationConfig={"thinkingConfig": {"includeThoughts": True}})
    assert parts(shown[0])[0]["thought"] is True
    assert "candidatesTokenCount" not in shown[0]["usageMetadata"]
    minimal = (await simulator.gemini(generationConfig={"thinkingConfig": {"thinkingLevel": "minimal"}})).json
    assert "thoughtsTokenCount" not in minimal["usageMetadata"]


async def test_a_small_limit_is_spent_on_thinking_alone(simulator: Peer) -> None:
    config: dict[str, Any] = {"generationConfig": {"maxOutputTokens": 5}}
    whole = (await simulator.gemini(**config)).json
    last = (await chunks(simulator, **config))[-1]
    for answer in (whole, last):
        assert answer["candidates"][0]["finishReason"] == "MAX_TOKENS"
        assert answer["candidates"][0]["content"] == {"role": "model"}
        assert answer["usageMetadata"]["thoughtsTokenCount"] == 5


async def test_a_stop_sequence_is_only_a_stop(simulator: Peer) -> None:
    answer = (await simulator.gemini("one END two", generationConfig={"stopSequences": ["END"]})).json
    assert parts(answer)[0]["text"].endswith("one ")
    assert answer["candidates"][0]["finishReason"] == "STOP"


async def test_parallel_calls_come_one_a_chunk_and_the_first_is_signed(simulator: Peer) -> None:
    seen = await chunks(simulator, "The weather and the time in Seoul?", model=PRO, tools=[WEATHER])
    called = [part for chunk in seen for part in parts(chunk) if "functionCall" in part]
    assert [part["functionCall"] for part in called] == [
        {"name": "get_weather", "args": {"city": "Seoul"}},
        {"name": "get_time", "args": {}},
    ]
    assert ["thoughtSignature" in part for part in called] == [True, False]
    assert len(seen) == 3
    assert seen[-1]["candidates"][0]["finishReason"] == "STOP"
    assert seen[-1]["candidates"][0]["finishMessage"]
    assert parts(seen[-1]) == [{"text": ""}]


async def test_the_official_client_reads_a_call(client: genai.client.AsyncClient) -> None:
    config = types.GenerateContentConfig(
        tools=[types.Tool.model_validate(WEATHER)],
        tool_config=types.ToolConfig(
            function_calling_config=types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY)
        ),
    )
    answer = await client.models.generate_content(model=GEMINI, contents="Go to Busan", config=config)
    assert answer.function_calls is not None
    (call,) = answer.function_calls
    assert (call.name, call.args) == ("get_weather", {"city": "Busan"})
    assert call.id


@pytest.mark.parametrize(
    ("prompt", "mode", "names"),
    [
        ("Hello", "AUTO", []),
        ("Hello [[call=get_time,get_weather]]", "AUTO", ["get_time", "get_weather"]),
        ("The weather", "NONE", []),
        ("Hello", "any", ["get_weather"]),
    ],
)
async def test_functions_are_called_when_named_spoken_of_or_required(
    simulator: Peer, prompt: str, mode: str, names: list[str]
) -> None:
    config = {"functionCallingConfig": {"mode": mode}}
    answer = (await simulator.gemini(prompt, tools=[WEATHER], toolConfig=config)).json
    assert [part["functionCall"]["name"] for part in parts(answer) if "functionCall" in part] == names


def history(*turns: list[Any]) -> dict[str, Any]:
    roles = ("user", "model") * len(turns)
    return {"contents": [{"role": role, "parts": turn} for role, turn in zip(roles, turns, strict=False)]}


ASK = [{"text": "The weather?"}]
SIGNED = CALL | {"thoughtSignature": "c2ln"}


async def test_results_of_calls_are_answered_with_text(simulator: Peer) -> None:
    answer = (await simulator.gemini(tools=[WEATHER], **history(ASK, [SIGNED, CALL], [RESULT, RESULT]))).json
    assert "temp_c" in parts(answer)[0]["text"]


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


async def test_json_is_answered_where_json_was_asked_for(simulator: Peer) -> None:
    config = {"responseMimeType": "application/json"}
    free = (await simulator.gemini("Say [[cached=3]] it", generationConfig=config)).json
    assert orjson.loads(parts(free)[0]["text"]) == {"reply": "Say  it"}


async def test_the_older_generation_takes_penalties_and_a_seed(simulator: Peer) -> None:
    config: dict[str, Any] = {"generationConfig": {"presencePenalty": 0.3, "frequency_penalty": 0.2, "seed": 7}}
    assert (await simulator.gemini(model=OLD, **config)).status == 200
    refused = await simulator.gemini("[[no_penalties]]", model=OLD, **config)
    assert (refused.status, refused.json["error"]["message"]) == (400, "Penalty is not enabled for this model")
    assert (await simulator.gemini("[[no_penalties]]", model=OLD)).status == 200


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
    answer = await simulator.post("/v1beta/cachedContents", {}, {"x-goog-api-key": "key"})
    assert (answer.status, answer.json["error"]["status"]) == (404, "NOT_FOUND")


async def test_the_official_client_is_told_of_a_quota(client: genai.client.AsyncClient) -> None:
    with pytest.raises(errors.ClientError) as caught:
        await client.models.generate_content(model=GEMINI, contents="[[status=429]]")
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")


async def test_embeddings_depend_on_the_text_alone_and_come_in_order(client: genai.client.AsyncClient) -> None:
    config = types.EmbedContentConfig(output_dimensionality=768)
    both = await client.models.embed_content(model=EMBEDDER, contents=["a", "b"], config=config)
    one = await client.models.embed_content(model=EMBEDDER, contents=["b"], config=config)
    assert both.embeddings is not None
    assert one.embeddings is not None
    assert both.embeddings[1] == one.embeddings[0] != both.embeddings[0]


def embedding(text: str, **members: Any) -> dict[str, Any]:
    return {"model": f"models/{EMBEDDER}", "content": {"parts": [{"text": text}]}} | members


@pytest.mark.parametrize(("dimensions", "normalised"), [(128, False), (768, False), (3072, True)])
async def test_only_the_full_width_is_normalised(simulator: Peer, dimensions: int, *, normalised: bool) -> None:
    request = embedding("a", outputDimensionality=dimensions)
    answer = await simulator.google(f"{EMBEDDER}:batchEmbedContents", {"requests": [request]})
    (vector,) = answer.json["embeddings"]
    assert len(vector["values"]) == dimensions
    assert math.isclose(math.hypot(*vector["values"]), 1) == normalised
    assert "usageMetadata" not in answer.json


@pytest.mark.parametrize(
    ("requests", "complaint"),
    [
        ([embedding("a")] * 101, "at most 100"),
        ([embedding("")], "empty Part"),
        ([embedding("a", model="models/other")], "models/gemini-embedding-001"),
        ([embedding("a", outputDimensionality=64)], "outputDimensionality"),
    ],
)
async def test_a_batch_that_the_api_forbids_is_refused(simulator: Peer, requests: list[Any], complaint: str) -> None:
    answer = await simulator.google(f"{EMBEDDER}:batchEmbedContents", {"requests": requests})
    assert answer.status == 400
    assert complaint in answer.json["error"]["message"]


async def test_counting_agrees_with_the_usage_of_an_answer(simulator: Peer) -> None:
    contents: dict[str, Any] = {
        "contents": [{"parts": [{"text": "안녕 hello"}, {"inlineData": {"mimeType": "image/png", "data": ""}}]}]
    }
    counted = (await simulator.google(f"{GEMINI}:countTokens", contents)).json
    usage = (await simulator.gemini(**contents)).json["usageMetadata"]
    assert counted["totalTokens"] == usage["promptTokenCount"] == 3 + 258
    assert counted["promptTokensDetails"] == usage["promptTokensDetails"]


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
        if "/models/" in call["url"] and "cachedContent" not in call["request"]
    ]


@pytest.mark.parametrize(("method", "request_"), golden_requests())
async def test_every_request_of_the_golden_exchanges_is_accepted(simulator: Peer, method: str, request_: Any) -> None:
    answer = await simulator.google(method, request_)
    assert answer.status == 200, answer.body
