"""`:batchEmbedContents` and `:countTokens`, and `:predict`, which is how Vertex AI embeds.

A batch reports no usage, so whoever wants counts asks for them; `:predict` takes one text, and counts it.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.simulator.google.directives import in_force, parsed
from services.simulator.google.errors import Refusal
from services.simulator.google.models import CHAT_MODELS, EMBEDDING_MODELS, MAX_DIMENSIONS, MIN_DIMENSIONS
from services.simulator.google.replies import told
from services.simulator.google.request import Content, CountRequest, Member, parse, tokens_by_modality
from services.simulator.google.tenants import GLOBAL, Tenant, not_found
from services.simulator.model import count, vector
from services.simulator.script import Call, Script
from shared.money import Tokens

MAX_BATCH = 100  # the API's own limit

TaskType = Annotated[str, Field(pattern=r"^[A-Z_]+$")]
Dimensions = Annotated[int, Field(ge=MIN_DIMENSIONS, le=MAX_DIMENSIONS)]


class EmbedRequest(Member):
    """One text of a batch."""

    model: str
    content: Content
    task_type: TaskType | None = None
    title: str | None = None
    output_dimensionality: Dimensions = MAX_DIMENSIONS


class BatchEmbedRequest(Member):
    """The body of `:batchEmbedContents`."""

    requests: Annotated[list[EmbedRequest], Field(min_length=1)]


class Instance(BaseModel):
    """One text of `:predict`, whose members are no proto JSON: only this case is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: Annotated[str, Field(min_length=1)]
    task_type: TaskType | None = None
    title: str | None = None


class PredictParameters(Member):
    """What holds for all instances."""

    output_dimensionality: Dimensions = MAX_DIMENSIONS
    auto_truncate: bool = True


class PredictRequest(Member):
    """The body of `:predict`; the model takes one text a call."""

    instances: Annotated[list[Instance], Field(min_length=1, max_length=1)]
    parameters: PredictParameters = PredictParameters()


def embed(call: Call, tenant: Tenant) -> Script:
    """One vector a request, in order. Raises Refusal."""
    if call.path["model"] not in EMBEDDING_MODELS:
        raise not_found(call, tenant)
    request = parse(BatchEmbedRequest, call.body)
    if len(request.requests) > MAX_BATCH:
        raise Refusal(400, f"* BatchEmbedContentsRequest.requests: at most {MAX_BATCH} requests can be in one batch")
    for one in request.requests:
        if one.model != tenant.model_name(call.path["model"]):
            raise Refusal(400, f"each request of a batch must name the model of the path: models/{call.path['model']}")
        if not one.content.words:
            raise Refusal(400, "* EmbedContentRequest.content: contains an empty Part.")
    vectors = [_vector(one.content.words, one.output_dimensionality) for one in request.requests]
    return told(
        call,
        {"embeddings": [{"values": values} for values in vectors]},
        tokens=Tokens(input=sum(count(one.content.words) for one in request.requests)),
        directives=in_force(call, request.requests[-1].content.words),
    )


def predict(call: Call, tenant: Tenant) -> Script:
    """One vector of one text, with its count. Raises Refusal."""
    if call.path["model"] not in EMBEDDING_MODELS or tenant.location == GLOBAL:
        raise not_found(call, tenant)
    request = parse(PredictRequest, call.body)
    text = request.instances[0].content
    values, tokens = _vector(text, request.parameters.output_dimensionality), count(text)
    embedding = {"values": values, "statistics": {"token_count": tokens, "truncated": False}}
    body = {"predictions": [{"embeddings": embedding}]}
    return told(call, body, tokens=Tokens(input=tokens), directives=in_force(call, text))


def _vector(text: str, dimensions: int) -> list[float]:
    return vector(text, dimensions, normalised=dimensions == MAX_DIMENSIONS)


def counted(call: Call, tenant: Tenant) -> Script:
    """The tokens of contents, none of them generated. Raises Refusal."""
    if call.path["model"] not in EMBEDDING_MODELS | CHAT_MODELS.keys():
        raise not_found(call, tenant)
    request = parse(CountRequest, call.body)
    if parsed(request.contents[-1].words).no_usage:
        raise Refusal(503)  # counts that cannot be had
    modalities = tokens_by_modality(request)
    details = [{"modality": name, "tokenCount": n} for name, n in modalities.items()]
    return told(call, {"totalTokens": sum(modalities.values()), "promptTokensDetails": details})
