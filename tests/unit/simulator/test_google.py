"""The Google half, judged by Google's own client and by the shapes of its wire."""

from typing import Any

import orjson
import pytest
from google import genai
from google.genai import errors, types

from tests.unit.simulator.peers import ASK, CALL, GEMINI, RESULT, SIGNED, WEATHER, Peer, history

# google-genai subclasses aiohttp's session, which aiohttp discourages
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

PRO = "gemini-3.1-pro-preview"


async def chunks(simulator: Peer, prompt: str = "Hello", **members: Any) -> list[Any]:
    answer = await simulator.gemini(prompt, stream=True, **members)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.body.count(b"\r\n\r\n") == len(answer.events)
    return [orjson.loads(event.data) for event in answer.events]


def parts(chunk: Any) -> Any:
    return chunk["candidates"][0]["content"].get("parts", [])


async def test_the_official_client_reads_the_same_whole_and_streamed(google_client: genai.client.AsyncClient) -> None:
    whole = await google_client.models.generate_content(model=GEMINI, contents="안녕하세요, hello")
    stream = await google_client.models.generate_content_stream(model=GEMINI, contents="안녕하세요, hello")
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


async def test_the_official_client_reads_a_call(google_client: genai.client.AsyncClient) -> None:
    config = types.GenerateContentConfig(
        tools=[types.Tool.model_validate(WEATHER)],
        tool_config=types.ToolConfig(
            function_calling_config=types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY)
        ),
    )
    answer = await google_client.models.generate_content(model=GEMINI, contents="Go to Busan", config=config)
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


async def test_results_of_calls_are_answered_with_text_even_if_they_speak_of_a_function(simulator: Peer) -> None:
    answer = (await simulator.gemini(tools=[WEATHER], **history(ASK, [SIGNED, CALL], [RESULT, RESULT]))).json
    assert "rain" in parts(answer)[0]["text"]


async def test_json_is_answered_where_json_was_asked_for(simulator: Peer) -> None:
    config = {"responseMimeType": "application/json"}
    free = (await simulator.gemini("Say [[cached=3]] it", generationConfig=config)).json
    assert orjson.loads(parts(free)[0]["text"]) == {"reply": "Say  it"}


async def test_the_official_client_is_told_of_a_quota(google_client: genai.client.AsyncClient) -> None:
    with pytest.raises(errors.ClientError) as caught:
        await google_client.models.generate_content(model=GEMINI, contents="[[status=429]]")
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")


async def test_counting_agrees_with_the_usage_of_an_answer(simulator: Peer) -> None:
    contents: dict[str, Any] = {
        "contents": [{"parts": [{"text": "안녕 hello"}, {"inlineData": {"mimeType": "image/png", "data": ""}}]}]
    }
    counted = (await simulator.google(f"{GEMINI}:countTokens", contents)).json
    usage = (await simulator.gemini(**contents)).json["usageMetadata"]
    assert counted["totalTokens"] == usage["promptTokenCount"] == 3 + 258
    assert counted["promptTokensDetails"] == usage["promptTokensDetails"]
