"""Caches of prefixes: made, used, prolonged, and gone; by the official client where it can say it."""

import asyncio
from typing import Any

import pytest
from google import genai
from google.genai import types
from google.genai.errors import ClientError

from services.simulator.google import caches
from tests.unit.simulator.peers import ASK, DEADLINE_S, GEMINI, WEATHER, Answer, Peer

# google-genai subclasses aiohttp's session, which aiohttp discourages
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

TOKENS = 1024  # the least that this model caches
POLICY = "x" * (4 * TOKENS)
PRO = "gemini-3.1-pro-preview"


def prefix(text: str = POLICY, **members: Any) -> dict[str, Any]:
    return {"model": f"models/{GEMINI}", "systemInstruction": {"parts": [{"text": text}]}} | members


async def call(simulator: Peer, verb: str, path: str, body: Any = None, key: str = "key") -> Answer:
    url = f"{simulator.url}/v1beta/{path}"
    async with simulator.session.request(verb, url, json=body, headers={"x-goog-api-key": key}) as response:
        return Answer(response.status, response.headers, await response.read(), broken=False)


async def made(simulator: Peer, **members: Any) -> str:
    """The name of a new cache."""
    answer = await call(simulator, "POST", "cachedContents", prefix(**members))
    assert answer.status == 200, answer.body
    return str(answer.json["name"])


async def test_the_official_client_makes_reads_prolongs_lists_and_deletes_a_cache(
    google_client: genai.client.AsyncClient,
) -> None:
    config = types.CreateCachedContentConfig(system_instruction=POLICY, ttl="300s", display_name="policy")
    cache = await google_client.caches.create(model=GEMINI, config=config)
    assert cache.name is not None
    assert cache.usage_metadata is not None
    assert (cache.usage_metadata.total_token_count, cache.display_name) == (TOKENS, "policy")
    longer = await google_client.caches.update(name=cache.name, config=types.UpdateCachedContentConfig(ttl="3600s"))
    assert longer.expire_time is not None
    assert cache.expire_time is not None
    assert 3290 < (longer.expire_time - cache.expire_time).total_seconds() < 3310
    assert (await google_client.caches.get(name=cache.name)).expire_time == longer.expire_time
    assert [one.name async for one in await google_client.caches.list()] == [cache.name]
    await google_client.caches.delete(name=cache.name)
    with pytest.raises(ClientError, match="CachedContent not found"):
        await google_client.caches.get(name=cache.name)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_every_use_of_a_cache_counts_its_tokens_inside_the_prompts(simulator: Peer, *, stream: bool) -> None:
    name = await made(simulator)
    for _ in range(2):
        answer = await simulator.gemini("12345678", stream=stream, cachedContent=name)
        last = answer.events[-1].data if stream else answer.body
        usage = types.GenerateContentResponse.model_validate_json(last).usage_metadata
        assert usage is not None
        assert (usage.prompt_token_count, usage.cached_content_token_count) == (TOKENS + 2, TOKENS)
    entries = (await simulator.served())["served"]
    assert [entry["operation"] == "cachedContents.create" for entry in entries] == [True, False, False]
    assert [entry["tokens"] and entry["tokens"]["cache_read"] for entry in entries] == [None, TOKENS, TOKENS]


async def test_functions_in_a_cache_are_called_as_if_they_stood_in_the_request(simulator: Peer) -> None:
    name = await made(simulator, tools=[WEATHER], toolConfig={"functionCallingConfig": {"mode": "ANY"}})
    answer = await simulator.gemini("What is the weather?", cachedContent=name)
    (part, *_) = answer.json["candidates"][0]["content"]["parts"]
    assert part["functionCall"]["name"] == "get_weather"


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"text": "short"}, "Cached content is too small. total_token_count=2, min_total_token_count=1024"),
        ({"model": f"models/{PRO}"}, "Cached content is too small. total_token_count=1024, min_total_token_count=4096"),
        ({"ttl": "soon"}, "ttl"),
        ({"ttl": "-1s"}, "ttl"),
        ({"generationConfig": {}}, 'Unknown name "generationConfig"'),
    ],
)
async def test_a_cache_that_the_api_forbids_is_refused_in_its_words(
    simulator: Peer, members: dict[str, Any], words: str
) -> None:
    answer = await call(simulator, "POST", "cachedContents", prefix(**members))
    assert (answer.status, answer.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert words in answer.json["error"]["message"]


async def test_a_model_that_does_not_exist_caches_nothing(simulator: Peer) -> None:
    answer = await call(simulator, "POST", "cachedContents", prefix(model="models/gpt-4"))
    assert (answer.status, answer.json["error"]["status"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("beside", [{"systemInstruction": {"parts": ASK}}, {"tools": [WEATHER]}, {"toolConfig": {}}])
async def test_nothing_of_a_cache_may_stand_beside_it(simulator: Peer, beside: dict[str, Any]) -> None:
    answer = await simulator.gemini(cachedContent=await made(simulator), **beside)
    assert answer.status == 400
    assert "CachedContent can not be used with GenerateContent request" in answer.json["error"]["message"]


async def test_a_cache_is_of_one_model(simulator: Peer) -> None:
    answer = await simulator.gemini(model=PRO, cachedContent=await made(simulator))
    assert (answer.status, answer.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "has to be the same" in answer.json["error"]["message"]


async def test_a_cache_ends_when_its_time_is_up(simulator: Peer) -> None:
    name = await made(simulator, ttl="0.2s")
    assert (await simulator.gemini(cachedContent=name)).status == 200
    async with asyncio.timeout(DEADLINE_S):
        while (answer := await simulator.gemini(cachedContent=name)).status == 200:
            pass
    check_gone(answer)
    assert (await call(simulator, "GET", "cachedContents")).json == {"cachedContents": []}


async def test_another_keys_cache_looks_as_if_it_were_gone(simulator: Peer) -> None:
    name = await made(simulator)
    for verb, body in (("GET", None), ("PATCH", {"ttl": "1s"}), ("DELETE", None)):
        check_gone(await call(simulator, verb, name, body, key="another"))
    assert (await call(simulator, "GET", "cachedContents", key="another")).json == {"cachedContents": []}
    assert (await call(simulator, "GET", name)).status == 200


def check_gone(answer: Answer) -> None:
    assert answer.status == 403
    assert answer.json["error"]["message"] == "CachedContent not found (or permission denied)"


async def test_the_oldest_cache_goes_when_there_are_too_many(simulator: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "MAX_CACHES", 2)
    names = [await made(simulator) for _ in range(3)]
    kept = (await call(simulator, "GET", "cachedContents")).json["cachedContents"]
    assert [cache["name"] for cache in kept] == names[1:]
