"""Vectors depend on the text alone, and a batch is held to the API's limits."""

import math
from typing import Any

import pytest
from google import genai
from google.genai import types

from tests.unit.simulator.peers import EMBEDDER, Peer

# google-genai subclasses aiohttp's session, which aiohttp discourages
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")


async def test_embeddings_depend_on_the_text_alone_and_come_in_order(google_client: genai.client.AsyncClient) -> None:
    config = types.EmbedContentConfig(output_dimensionality=768)
    both = await google_client.models.embed_content(model=EMBEDDER, contents=["a", "b"], config=config)
    one = await google_client.models.embed_content(model=EMBEDDER, contents=["b"], config=config)
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
