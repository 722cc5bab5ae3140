"""Every input becomes a vector of length 1, in order, and is counted once, however the provider wants to be asked."""

import math
from typing import Any

import pytest

from services.workers.google import PROVIDER
from services.workers.google.embeddings import MOST_IN_BATCH
from services.workers.memory import BoundedMemory
from services.workers.provider import Failed, UpstreamReply, Vectors
from shared.errors import NoSupplier
from tests.unit.simulator.vertex import PROJECT
from tests.unit.workers.google.calls import Driven, embeddings, error, granted, reply, vertex


def planned(inputs: str | list[str], **members: Any) -> Driven:
    assert PROVIDER.embed is not None
    return Driven(PROVIDER.embed(embeddings(inputs, **members)))


def batch(*numbers: int, **members: Any) -> UpstreamReply:
    """One vector for each number, by whose direction it is known again."""
    return reply({"embeddings": [{"values": [float(n), 1.0]} for n in numbers]} | members)


def predicted(number: int, tokens: int) -> UpstreamReply:
    values = {"values": [float(number), 1.0], "statistics": {"token_count": tokens, "truncated": False}}
    return reply({"predictions": [{"embeddings": values}]})


def numbers_of(vectors: Vectors) -> list[int]:
    """The numbers by which they are known."""
    return [round(first / second) for first, second in vectors.vectors]


def test_more_inputs_than_a_batch_takes_are_split_in_order_and_counted_together() -> None:
    texts = [f"text {n}" for n in range(2 * MOST_IN_BATCH + 1)]
    plan, asked = planned(texts), 0
    while plan.call is not None:
        assert plan.sent.url.endswith(":batchEmbedContents")
        sent = [one["content"]["parts"][0]["text"] for one in plan.body["requests"]]
        assert sent == texts[asked : asked + MOST_IN_BATCH]
        plan.answer(batch(*range(asked, asked + len(sent)), usageMetadata={"promptTokenCount": 10 * len(sent)}))
        asked += len(sent)
    assert asked == len(texts)
    assert numbers_of(plan.result) == [*range(len(texts))]
    assert (plan.result.usage.tokens.input, plan.result.usage.estimated) == (10 * len(texts), False)
    assert plan.result.usage.raw == {"totalTokens": 10 * len(texts)}


def test_counts_that_an_answer_leaves_out_are_asked_for_batch_by_batch() -> None:
    texts = ["a"] * (MOST_IN_BATCH + 1)
    plan = planned(texts).answer(batch(*range(MOST_IN_BATCH)))
    assert plan.sent.url.endswith("/models/gemini-embedding-001:countTokens")
    assert plan.body == {"contents": [{"parts": [{"text": "a"}]}] * MOST_IN_BATCH}
    plan.answer(reply({"totalTokens": 100})).answer(batch(100)).answer(reply({"totalTokens": 1}))
    assert (plan.result.usage.tokens.input, plan.result.usage.estimated) == (101, False)


@pytest.mark.parametrize(
    "failure",
    [error(503, "no"), reply({}), UpstreamReply(200, {}, b"<html>"), Failed(NoSupplier(), "closed", retries=2)],
    ids=["503", "no count", "not JSON", "no connection"],
)
def test_where_even_counting_fails_the_vectors_are_delivered_on_an_estimate(failure: Any) -> None:
    plan = planned(["12345678", "1"]).answer(batch(1, 2)).answer(failure)
    assert numbers_of(plan.result) == [1, 2]
    assert (plan.result.usage.tokens.input, plan.result.usage.estimated) == (3, True)


def test_one_estimate_makes_the_whole_count_one() -> None:
    texts = ["1234"] * (MOST_IN_BATCH + 1)
    plan = planned(texts).answer(batch(*range(MOST_IN_BATCH))).answer(error(503, "no"))
    plan.answer(batch(1, usageMetadata={"promptTokenCount": 7}))
    assert (plan.result.usage.tokens.input, plan.result.usage.estimated) == (MOST_IN_BATCH + 7, True)
    assert plan.result.usage.raw is None


@pytest.mark.parametrize("supplier", [None, vertex("us-central1")], ids=["gemini", "vertex"])
@pytest.mark.parametrize(("asked", "upstream"), [(None, 768), (256, 256), (64, 128), (1, 128)])
def test_as_many_dimensions_as_asked_for_come_at_length_one(supplier: Any, asked: int | None, upstream: int) -> None:
    members = {} if supplier is None else {"supplier": supplier}
    plan = planned("a", dimensions=asked, **members)
    values = [float(n % 7 - 3) or 0.5 for n in range(upstream)]
    if supplier is None:
        assert plan.body["requests"][0]["outputDimensionality"] == upstream
        plan.answer(reply({"embeddings": [{"values": values}], "usageMetadata": {"promptTokenCount": 1}}))
    else:
        plan.answer(granted())
        assert plan.body["parameters"] == {"outputDimensionality": upstream}
        embedding = {"values": values, "statistics": {"token_count": 1, "truncated": False}}
        plan.answer(reply({"predictions": [{"embeddings": embedding}]}))
    (vector,) = plan.result.vectors
    assert len(vector) == (asked or 768)
    assert math.isclose(math.hypot(*vector), 1)
    assert vector[0] / vector[-1] == pytest.approx(values[0] / values[len(vector) - 1])


def test_a_vector_of_nothing_stays_one() -> None:
    plan = planned("a", dimensions=2)
    plan.answer(reply({"embeddings": [{"values": [0.0] * 128}], "usageMetadata": {"promptTokenCount": 1}}))
    assert plan.result.vectors == [[0.0, 0.0]]


def test_the_task_type_goes_along_with_every_text() -> None:
    sent = planned(["a", "b"], task_type="RETRIEVAL_QUERY").body["requests"]
    assert [one["taskType"] for one in sent] == ["RETRIEVAL_QUERY"] * 2
    plan = planned("a", supplier=vertex("us-central1"), task_type="CLUSTERING").answer(granted())
    assert plan.body["instances"] == [{"content": "a", "task_type": "CLUSTERING"}]
    assert "taskType" not in planned("a").body["requests"][0]


def test_a_region_of_vertex_is_asked_text_by_text_and_its_counts_are_added_up() -> None:
    plan = planned(["a", "b"], supplier=vertex("us-central1")).answer(granted())
    place = f"projects/{PROJECT}/locations/us-central1/publishers/google/models/gemini-embedding-001:predict"
    assert plan.sent.url == f"https://vertex.example/v1/{place}"
    plan.answer(predicted(1, 5)).answer(predicted(2, 6))
    assert numbers_of(plan.result) == [1, 2]
    assert (plan.result.usage.tokens.input, plan.result.usage.estimated) == (11, False)


def test_a_token_that_is_refused_in_the_middle_is_fetched_anew_by_the_next_attempt() -> None:
    memory, region = BoundedMemory(), vertex("us-central1")
    plan = planned("a", supplier=region, memory=memory).answer(granted())
    with pytest.raises(Failed) as failed:
        plan.answer(error(401, "no"))
    assert failed.value.disproves == "token"
    again = planned("a", supplier=region, memory=memory).answer(granted("ya29.two"))
    assert again.sent.headers["authorization"] == "Bearer ya29.two"


def test_a_refusal_of_a_batch_is_told() -> None:
    with pytest.raises(Failed, match="too long"):
        planned("a").answer(error(400, "the text is too long"))
