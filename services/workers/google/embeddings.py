"""Embeddings (ai.google.dev, "batchEmbedContents" and "countTokens"; docs.cloud.google.com, "Text embeddings API").

Only 3,072 dimensions come normalised, and 128 are the fewest: fewer are cut from 128, and every vector is scaled to
length 1 here. The Gemini API's older answers hold no counts; then countTokens on the same model gives them. Vertex AI
takes one text a call, and counts it.
"""

import math
from collections.abc import Generator, Sequence
from typing import Any

import orjson

from services.workers.google.vertex import (
    Credentials,
    VertexSupplier,
    authorised,
    model_name,
    model_url,
    read,
)
from services.workers.provider import Call, EmbeddingsPlan, Failed, UpstreamReply, UpstreamRequest, Usage, Vectors
from shared.money import Tokens
from shared.openai import EMBEDDING_DIMENSIONS, EmbeddingsRequest

FEWEST_DIMENSIONS = 128
MOST_IN_BATCH = 100  # texts that batchEmbedContents takes; countTokens is asked about the same ones
BYTES_PER_TOKEN = 4  # the usual rule of thumb, where the provider counts nothing


def embed(call: Call[EmbeddingsRequest]) -> EmbeddingsPlan:
    """All inputs as vectors of length 1, and what they used. Raises Failed."""
    credentials = yield from authorised(call)
    embedded = _predicted if isinstance(call.supplier, VertexSupplier) else _batched
    return (yield from embedded(call, credentials))


def _batched(call: Call[EmbeddingsRequest], credentials: Credentials) -> EmbeddingsPlan:
    texts, vectors, counts = call.request.inputs, [], []
    for start in range(0, len(texts), MOST_IN_BATCH):
        batch = texts[start : start + MOST_IN_BATCH]
        reply = yield _post(call, credentials, "batchEmbedContents", {"requests": _requests(call, batch)})
        body = read(call, credentials, reply)
        vectors += [_unit(embedding["values"][: _dimensions(call)]) for embedding in body["embeddings"]]
        count = (body.get("usageMetadata") or {}).get("promptTokenCount")
        counts.append((yield from _counted(call, credentials, batch)) if count is None else Usage(Tokens(input=count)))
    return Vectors(vectors, _sum(counts), None)


def _predicted(call: Call[EmbeddingsRequest], credentials: Credentials) -> EmbeddingsPlan:
    vectors, counts = [], []
    task = {"task_type": call.request.task_type} if call.request.task_type else {}
    parameters = {"outputDimensionality": max(_dimensions(call), FEWEST_DIMENSIONS)}
    for text in call.request.inputs:
        reply = yield _post(
            call, credentials, "predict", {"instances": [{"content": text, **task}], "parameters": parameters}
        )
        embedding = read(call, credentials, reply)["predictions"][0]["embeddings"]
        vectors.append(_unit(embedding["values"][: _dimensions(call)]))
        counts.append(Usage(Tokens(input=int(embedding["statistics"]["token_count"]))))
    return Vectors(vectors, _sum(counts), None)


def _dimensions(call: Call[EmbeddingsRequest]) -> int:
    return call.request.dimensions or EMBEDDING_DIMENSIONS


def _requests(call: Call[EmbeddingsRequest], texts: Sequence[str]) -> list[dict[str, Any]]:
    task = {"taskType": call.request.task_type} if call.request.task_type else {}
    return [
        {
            "model": model_name(call.supplier, call.model.upstream),
            "content": {"parts": [{"text": text}]},
            **task,
            "outputDimensionality": max(_dimensions(call), FEWEST_DIMENSIONS),
        }
        for text in texts
    ]


def _post(
    call: Call[EmbeddingsRequest], credentials: Credentials, method: str, body: dict[str, Any]
) -> UpstreamRequest:
    url = f"{model_url(call.supplier, call.model.upstream)}:{method}"
    return UpstreamRequest(url, credentials.headers, orjson.dumps(body))


def _counted(
    call: Call[EmbeddingsRequest], credentials: Credentials, texts: Sequence[str]
) -> Generator[UpstreamRequest, UpstreamReply, Usage]:
    """The provider's count; an estimate, marked as one, where even that fails: the vectors are here and are owed."""
    contents = [{"parts": [{"text": text}]} for text in texts]
    try:
        reply = yield _post(call, credentials, "countTokens", {"contents": contents})
        return Usage(Tokens(input=read(call, credentials, reply)["totalTokens"]))
    except (Failed, KeyError):
        size = sum(len(text.encode()) for text in texts)
        return Usage(Tokens(input=math.ceil(size / BYTES_PER_TOKEN)), estimated=True)


def _sum(counts: Sequence[Usage]) -> Usage:
    """The counts of all calls; estimated if any is."""
    total, estimated = sum(count.tokens.input for count in counts), any(count.estimated for count in counts)
    return Usage(Tokens(input=total), None if estimated else {"totalTokens": total}, estimated)


def _unit(values: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(value * value for value in values))
    return [value / length for value in values] if length else values
