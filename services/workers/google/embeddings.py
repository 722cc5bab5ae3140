"""Embeddings (ai.google.dev, "batchEmbedContents" and "countTokens"; docs.cloud.google.com, "Text embeddings API").

Only 3,072 dimensions come normalised, and 128 are the fewest: fewer are cut from 128, and every vector is scaled to
length 1 here. The Gemini API's older answers hold no counts; then countTokens on the same model gives them. Vertex AI
takes one text a call, and counts it.
"""

import math
from typing import Any

import orjson

from services.workers.google.vertex import (
    GLOBAL,
    Credentials,
    VertexSupplier,
    authorised,
    failure,
    model_name,
    model_url,
)
from services.workers.google.wire import loads
from services.workers.provider import Call, EmbeddingsPlan, Failed, UpstreamReply, UpstreamRequest, Usage, Vectors
from shared.errors import NoSupplier
from shared.money import Tokens
from shared.openai import EMBEDDING_DIMENSIONS, EmbeddingsRequest

FEWEST_DIMENSIONS = 128
BYTES_PER_TOKEN = 4  # the usual rule of thumb, where the provider counts nothing


def embed(call: Call[EmbeddingsRequest]) -> EmbeddingsPlan:
    """All inputs as vectors of length 1, and what they used. Raises Failed."""
    credentials = yield from authorised(call)
    if isinstance(call.supplier, VertexSupplier):
        return (yield from _predicted(call, call.supplier, credentials))
    return (yield from _batched(call, credentials))


def _batched(call: Call[EmbeddingsRequest], credentials: Credentials) -> EmbeddingsPlan:
    reply = yield _post(call, credentials, "batchEmbedContents", {"requests": _requests(call)})
    body = _read(call, reply)
    vectors = [_unit(embedding["values"][: _dimensions(call)]) for embedding in body["embeddings"]]
    metadata = body.get("usageMetadata") or {}
    if (count := metadata.get("promptTokenCount")) is not None:
        return Vectors(vectors, Usage(Tokens(input=count), metadata), None)
    contents = [{"parts": [{"text": text}]} for text in call.request.inputs]
    reply = yield _post(call, credentials, "countTokens", {"contents": contents})
    return Vectors(vectors, _counted(call.request, reply), None)


def _predicted(call: Call[EmbeddingsRequest], supplier: VertexSupplier, credentials: Credentials) -> EmbeddingsPlan:
    if supplier.location == GLOBAL:
        raise Failed(NoSupplier("embeddings need a regional location of Vertex AI, or a Gemini API key"))
    vectors, count = [], 0
    task = {"task_type": call.request.task_type} if call.request.task_type else {}
    parameters = {"outputDimensionality": max(_dimensions(call), FEWEST_DIMENSIONS)}
    for text in call.request.inputs:
        content = {"instances": [{"content": text, **task}], "parameters": parameters}
        embedding = _read(call, (yield _post(call, credentials, "predict", content)))["predictions"][0]["embeddings"]
        vectors.append(_unit(embedding["values"][: _dimensions(call)]))
        count += int(embedding["statistics"]["token_count"])
    return Vectors(vectors, Usage(Tokens(input=count), {"token_count": count}), None)


def _dimensions(call: Call[EmbeddingsRequest]) -> int:
    return call.request.dimensions or EMBEDDING_DIMENSIONS


def _requests(call: Call[EmbeddingsRequest]) -> list[dict[str, Any]]:
    task = {"taskType": call.request.task_type} if call.request.task_type else {}
    return [
        {
            "model": model_name(call.supplier, call.model.upstream),
            "content": {"parts": [{"text": text}]},
            **task,
            "outputDimensionality": max(_dimensions(call), FEWEST_DIMENSIONS),
        }
        for text in call.request.inputs
    ]


def _post(
    call: Call[EmbeddingsRequest], credentials: Credentials, method: str, body: dict[str, Any]
) -> UpstreamRequest:
    url = f"{model_url(call.supplier, call.model.upstream)}:{method}"
    return UpstreamRequest(url, credentials.headers, orjson.dumps(body))


def _read(call: Call[EmbeddingsRequest], reply: UpstreamReply) -> dict[str, Any]:
    if reply.status != 200:
        raise failure(call.supplier, reply)
    return loads(reply.body)


def _counted(request: EmbeddingsRequest, reply: UpstreamReply) -> Usage:
    """The provider's count; an estimate, marked as one, where even that fails: the vectors are here and are owed."""
    count = loads(reply.body).get("totalTokens") if reply.status == 200 else None
    if count is None:
        size = sum(len(text.encode()) for text in request.inputs)
        return Usage(Tokens(input=math.ceil(size / BYTES_PER_TOKEN)), None, estimated=True)
    return Usage(Tokens(input=count), {"totalTokens": count})


def _unit(values: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(value * value for value in values))
    return [value / length for value in values] if length else values
