"""Vertex AI: who is let in, where, and what differs from the Gemini API."""

import asyncio
from typing import Any

import aiohttp
import pytest
from google import genai
from google.genai import types
from google.oauth2 import service_account

from tests.unit.simulator.peers import DEADLINE_S, EMBEDDER, GEMINI, Answer, Peer
from tests.unit.simulator.vertex import FLEX, PROJECT, granted, key_pair, tell, token, vertex

HELLO = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


@pytest.fixture
async def bearer(simulator: Peer) -> str:
    await tell(simulator, key_pair())
    return str((await token(simulator)).json["access_token"])


async def test_a_signed_assertion_is_exchanged_for_a_token(simulator: Peer) -> None:
    await tell(simulator, key_pair(), expires_in=1800)
    answer = await token(simulator)
    assert (answer.status, answer.json["expires_in"], answer.json["token_type"]) == (200, 1800, "Bearer")
    assert answer.json["access_token"] != (await token(simulator)).json["access_token"]


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "nobody@example.com"},
        {"aud": "https://example.com/token"},
        {"exp": 1_000_000_000},
        {"iat": 4_000_000_000, "exp": 4_000_000_060},
        {"exp": 4_000_000_000},
        {"exp": "soon"},
    ],
    ids=str,
)
async def test_an_assertion_that_proves_nothing_is_not_granted(simulator: Peer, claims: dict[str, Any]) -> None:
    await tell(simulator, key_pair())
    answer = await token(simulator, **claims)
    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")


async def test_only_the_key_that_the_simulator_was_told_of_signs(simulator: Peer) -> None:
    await tell(simulator, key_pair())
    forged = key_pair(2).assertion(simulator.url)
    for form in ({"assertion": forged}, {"assertion": "x.y.z"}, {"assertion": ""}):
        answer = await granted(simulator, **form)
        assert (answer.status, answer.json["error"]) == (400, "invalid_grant")
    other = await granted(simulator, grant_type="password")
    assert (other.status, other.json["error"]) == (400, "unsupported_grant_type")


async def test_the_token_endpoint_fails_as_it_is_told_to(simulator: Peer) -> None:
    await tell(simulator, key_pair(), status=503)
    assert (await token(simulator)).status == 503
    await tell(simulator, key_pair())
    assert (await token(simulator)).status == 200


@pytest.mark.parametrize("wrong", [{"public_key": "no key"}, {}, {"public_key": "", "expires": 1}])
async def test_an_account_that_cannot_be_is_refused(simulator: Peer, wrong: dict[str, str]) -> None:
    async with simulator.session.put(f"{simulator.url}/simulator/accounts/a@b", json=wrong) as response:
        assert response.status == 400
        assert (await response.json())["error"]


async def test_a_model_answers_whoever_has_a_token(simulator: Peer, bearer: str) -> None:
    for location in ("global", "us-central1"):
        answer = await vertex(simulator, f"{GEMINI}:generateContent", HELLO, location, bearer=bearer)
        assert answer.status == 200
        assert answer.json["usageMetadata"]["trafficType"] == "ON_DEMAND"
    assert "trafficType" not in (await simulator.gemini()).json["usageMetadata"]


async def test_a_token_is_good_until_it_ends(simulator: Peer, bearer: str) -> None:
    check_unauthenticated(await vertex(simulator, f"{GEMINI}:generateContent", HELLO, bearer="ya29.unknown"))
    check_unauthenticated(
        await simulator.post(f"/v1/projects/{PROJECT}/locations/global/cachedContents", {}, {"x-goog-api-key": "key"})
    )
    await tell(simulator, key_pair())
    check_unauthenticated(await vertex(simulator, f"{GEMINI}:generateContent", HELLO, bearer=bearer))


async def test_a_token_ends_by_itself(simulator: Peer) -> None:
    await tell(simulator, key_pair(), expires_in=1)
    short = (await token(simulator)).json["access_token"]
    async with asyncio.timeout(DEADLINE_S):
        while (answer := await vertex(simulator, f"{EMBEDDER}:countTokens", HELLO, bearer=short)).status == 200:
            pass
    check_unauthenticated(answer)


def check_unauthenticated(answer: Answer) -> None:
    assert (answer.status, answer.json["error"]["status"]) == (401, "UNAUTHENTICATED")


async def test_flex_is_sold_by_the_global_endpoint_alone_and_told_in_the_counts(simulator: Peer, bearer: str) -> None:
    sold = await vertex(simulator, f"{GEMINI}:streamGenerateContent?alt=sse", HELLO, "global", bearer=bearer, **FLEX)
    assert sold.status == 200
    assert all('"trafficType":"ON_DEMAND_FLEX"' in event.data for event in sold.events)
    refused = await vertex(simulator, f"{GEMINI}:generateContent", HELLO, "us-central1", bearer=bearer, **FLEX)
    assert (refused.status, refused.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
    half = {name: value for name, value in FLEX.items() if value == "flex"}
    assert (await vertex(simulator, f"{GEMINI}:generateContent", HELLO, "global", bearer=bearer, **half)).status == 400


def instances(*texts: str, **members: Any) -> dict[str, Any]:
    return {"instances": [{"content": text} | members for text in texts], "parameters": {"outputDimensionality": 256}}


async def test_a_regional_endpoint_embeds_one_text_and_counts_it(simulator: Peer, bearer: str) -> None:
    body = instances("12345678", task_type="RETRIEVAL_QUERY")
    answer = await vertex(simulator, f"{EMBEDDER}:predict", body, bearer=bearer)
    (prediction,) = answer.json["predictions"]
    assert len(prediction["embeddings"]["values"]) == 256
    assert prediction["embeddings"]["statistics"] == {"token_count": 2, "truncated": False}


@pytest.mark.parametrize(
    ("location", "method", "body", "status"),
    [
        ("global", f"{EMBEDDER}:predict", instances("a"), 404),
        ("us-central1", f"{EMBEDDER}:predict", instances("a", "b"), 400),
        ("us-central1", f"{EMBEDDER}:predict", instances(""), 400),
        ("us-central1", f"{EMBEDDER}:batchEmbedContents", {}, 404),
        ("us-central1", f"{GEMINI}:predict", instances("a"), 404),
        ("us-central1", "gpt-4:generateContent", HELLO, 404),
    ],
)
async def test_what_vertex_does_not_do_is_refused(
    simulator: Peer, bearer: str, location: str, method: str, body: Any, status: int
) -> None:
    answer = await vertex(simulator, method, body, location, bearer=bearer)
    assert (answer.status, answer.json["error"]["code"]) == (status, status)


async def test_a_key_whose_quota_is_used_up_says_so_for_the_day(simulator: Peer) -> None:
    answer = await simulator.post(f"/v1beta/models/{GEMINI}:generateContent", HELLO, {"x-goog-api-key": "exhausted"})
    assert answer.status == 429
    assert b"PerDay" in answer.body


# google-genai subclasses aiohttp's session, which aiohttp discourages
@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
async def test_the_official_client_is_let_in_with_the_accounts_key_and_caches(simulator: Peer) -> None:
    keys = key_pair()
    await tell(simulator, keys)
    credentials = service_account.Credentials.from_service_account_info(keys.info(simulator.url), scopes=[SCOPE])  # type: ignore[no-untyped-call]
    options = types.HttpOptions(base_url=simulator.url, api_version="v1")
    with genai.Client(
        vertexai=True, credentials=credentials, project=PROJECT, location="global", http_options=options
    ) as client:
        async with client.aio as google:
            config = types.CreateCachedContentConfig(system_instruction="x" * 4096)
            cache = await google.caches.create(model=GEMINI, config=config)
            answer = await google.models.generate_content(
                model=GEMINI, contents="Hello", config=types.GenerateContentConfig(cached_content=cache.name)
            )
            assert cache.name is not None
            await google.caches.delete(name=cache.name)
    assert cache.name.startswith(f"projects/{PROJECT}/locations/global/cachedContents/")
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.cached_content_token_count == 1024


async def test_a_cache_that_is_gone_is_told_in_vertexs_own_words(simulator: Peer, bearer: str) -> None:
    name = f"projects/{PROJECT}/locations/global/cachedContents/7"
    body = HELLO | {"cachedContent": name}
    answer = await vertex(simulator, f"{GEMINI}:generateContent", body, "global", bearer=bearer)
    assert (answer.status, answer.json["error"]["message"]) == (404, "Not found: cached content metadata for 7.")


async def test_a_route_of_vertex_that_is_not_simulated_is_refused_in_googles_form(simulator: Peer) -> None:
    async with aiohttp.ClientSession() as session:
        answer = await Peer(simulator.url, session).post(f"/v1/projects/{PROJECT}/locations/global/operations", {}, {})
    assert (answer.status, answer.json["error"]["status"]) == (404, "NOT_FOUND")
