"""`:batchEmbedContents` and `:countTokens`. Embeddings report no usage, so whoever wants counts asks for them."""

from typing import Any

import orjson

from services.simulator.google.errors import Refusal
from services.simulator.google.models import MAX_DIMENSIONS
from services.simulator.google.request import BatchEmbedRequest, CountRequest, tokens_by_modality
from services.simulator.model import vector

MAX_BATCH = 100  # the API's own limit


def embed(request: BatchEmbedRequest, model: str) -> bytes:
    """The body of an answer: one vector a request, in order. Raises Refusal."""
    if len(request.requests) > MAX_BATCH:
        raise Refusal(400, f"* BatchEmbedContentsRequest.requests: at most {MAX_BATCH} requests can be in one batch")
    for one in request.requests:
        if one.model != f"models/{model}":
            raise Refusal(400, f"each request of a batch must name the model of the path: models/{model}")
        if not one.content.words:
            raise Refusal(400, "* EmbedContentRequest.content: contains an empty Part.")
    vectors = [_vector(one.content.words, one.output_dimensionality) for one in request.requests]
    return orjson.dumps({"embeddings": [{"values": values} for values in vectors]})


def _vector(text: str, dimensions: int) -> list[float]:
    return vector(text, dimensions, normalised=dimensions == MAX_DIMENSIONS)


def counted(request: CountRequest) -> bytes:
    """The body of an answer to `:countTokens`."""
    modalities = tokens_by_modality(request)
    details: list[dict[str, Any]] = [{"modality": name, "tokenCount": n} for name, n in modalities.items()]
    return orjson.dumps({"totalTokens": sum(modalities.values()), "promptTokensDetails": details})
