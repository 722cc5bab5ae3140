"""Embeddings (ai.google.dev, "batchEmbedContents" and "countTokens").

Only 3,072 dimensions come normalised, and 128 are the fewest: fewer are cut from 128, and every vector is scaled to
length 1 here. Older answers hold no counts; then countTokens on the same model gives them.
"""

import math
from typing import Any

import orjson

from services.workers.google.wire import failure, headers, loads
from services.workers.provider import EmbeddingsPlan, Supplier, UpstreamReply, UpstreamRequest, Usage, Vectors
from shared.catalog import Model
from shared.money import Tokens
from shared.openai import EMBEDDING_DIMENSIONS, EmbeddingsRequest

FEWEST_DIMENSIONS = 128
BYTES_PER_TOKEN = 4  # the usual rule of thumb, where the provider counts nothing


def plan(request: EmbeddingsRequest, model: Model, supplier: Supplier) -> EmbeddingsPlan:
    """Embed all inputs in one call, then ask for the counts where the answer has none. Raises Failed."""
    dimensions = request.dimensions or EMBEDDING_DIMENSIONS
    address = f"{supplier.base_url}/models/{model.upstream}"
    reply = yield _call(f"{address}:batchEmbedContents", supplier, {"requests": _requests(request, model, dimensions)})
    body = _read(reply)
    vectors = [_unit(embedding["values"][:dimensions]) for embedding in body["embeddings"]]
    metadata = body.get("usageMetadata") or {}
    if (count := metadata.get("promptTokenCount")) is not None:
        return Vectors(vectors, Usage(Tokens(input=count), metadata), None)
    contents = [{"parts": [{"text": text}]} for text in request.inputs]
    reply = yield _call(f"{address}:countTokens", supplier, {"contents": contents})
    return Vectors(vectors, _counted(request, reply), None)


def _requests(request: EmbeddingsRequest, model: Model, dimensions: int) -> list[dict[str, Any]]:
    task = {"taskType": request.task_type} if request.task_type else {}
    return [
        {
            "model": f"models/{model.upstream}",
            "content": {"parts": [{"text": text}]},
            **task,
            "outputDimensionality": max(dimensions, FEWEST_DIMENSIONS),
        }
        for text in request.inputs
    ]


def _call(url: str, supplier: Supplier, body: dict[str, Any]) -> UpstreamRequest:
    return UpstreamRequest(url, headers(supplier), orjson.dumps(body))


def _read(reply: UpstreamReply) -> dict[str, Any]:
    if reply.status != 200:
        raise failure(reply)
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
