"""Embeddings by a key and by a region of Vertex AI: in order, counted, and charged for what was counted."""

import base64
import struct
from typing import Any

import pytest

from shared.events import UsageRecorded
from tests.integration.workers.google import EMBEDDINGS, Google, embed, hello, record_of
from tests.unit.simulator.vertex import key_pair, tell
from tests.unit.workers.running import Worker


@pytest.mark.parametrize("locations", [None, "us-central1"], ids=["gemini", "vertex"])
async def test_embeddings_are_counted_and_the_same_by_either_way(google: Google, locations: str | None) -> None:
    async with google.worker(*([] if locations else ["key"]), locations=locations) as worker:
        texts = ["12345678", "1", "안녕"]
        answer = await worker.ask(embed(texts, encoding_format="float"), EMBEDDINGS)
        packed = await worker.ask(embed("12345678", encoding_format="base64", dimensions=64), EMBEDDINGS)
        record = await record_of(worker, answer)
        await record_of(worker, packed)
    assert record.tokens.input == 2 + 1 + 2
    assert record.usage_source == "reported"
    assert answer.json["usage"] == {"prompt_tokens": 5, "total_tokens": 5, "cost": 0.000000125}
    vectors = [entry["embedding"] for entry in answer.json["data"]]
    assert [entry["index"] for entry in answer.json["data"]] == [0, 1, 2]
    assert len({tuple(vector) for vector in vectors}) == 3
    for vector in vectors:
        assert len(vector) == 768
        assert sum(value * value for value in vector) == pytest.approx(1)
    raw = base64.b64decode(packed.json["data"][0]["embedding"])
    assert sum(value * value for value in struct.unpack("<64f", raw)) == pytest.approx(1)


async def test_many_inputs_are_embedded_in_batches_in_their_order(google: Google) -> None:
    texts = [f"text {n:05d}" for n in range(201)]
    async with google.worker("key") as worker:
        answer = await worker.ask(embed(texts, dimensions=1), EMBEDDINGS)
        record = await record_of(worker, answer)
        alone = await worker.ask(embed(texts[200]), EMBEDDINGS)
        again = await worker.ask(embed([*texts[:200], texts[200]]), EMBEDDINGS)
    assert answer.status == 200
    assert record.tokens.input == 201 * 3
    assert (await google.operations())[:6] == ["batchEmbedContents", "countTokens"] * 3
    assert again.json["data"][200]["embedding"] == alone.json["data"][0]["embedding"]


async def test_counts_that_cannot_be_had_are_estimated_and_marked(google: Google) -> None:
    text = "Hello [[no_usage]]"
    async with google.worker("key") as worker:
        record = await ask_embeddings(worker, embed(text))
    assert record.usage_source == "estimated"
    assert record.tokens.input == -(-len(text) // 4)


async def ask_embeddings(worker: Worker, body: dict[str, Any]) -> UsageRecorded:
    return await record_of(worker, await worker.ask(body, EMBEDDINGS))


async def test_a_token_that_is_refused_is_fetched_anew_once_for_embeddings_too(google: Google) -> None:
    async with google.worker(locations="us-central1") as worker:
        await ask_embeddings(worker, embed("Hi"))
        await tell(google, key_pair())
        record = await ask_embeddings(worker, embed("Hi"))
    assert [attempt.status for attempt in record.attempts] == [401, 200, 200]
    assert (await google.operations()).count("token") == 2


async def test_the_global_endpoint_passes_embeddings_on_to_a_region(google: Google) -> None:
    async with google.worker(locations="global,us-central1") as worker:
        record = await ask_embeddings(worker, embed("Hi"))
    assert record.supplier == "vertex-us-central1"


async def test_embeddings_that_an_endpoint_does_not_sell_are_not_held_against_its_chat(google: Google) -> None:
    async with google.worker(locations="global") as worker:
        for _ in range(5):
            assert (await worker.ask(embed("Hi"), EMBEDDINGS)).code == "no_supplier"
        assert (await worker.ask(hello())).status == 200
