"""The public wire: what a client may send, as the one set of models that edge and workers share.

Source: OpenAI API reference, "Create chat completion" and "Create embeddings"; OpenRouter's extensions of them.
Top level strict: an unknown member is refused by name. Members that no provider takes are parsed with their types,
then dropped. What a conversation is made of: `shared.messages`.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from shared.bodies import Strict
from shared.messages import CacheControl, Message, Permissive, Schema, Tool, ToolChoice

MAX_BODY_BYTES = 32 * 1024 * 1024  # Anthropic's own limit, the smallest of our providers'
MAX_KEPT_BYTES = 10_000_000  # of an answer under an Idempotency-Key: the largest of embeddings in base64 has 8.5 MB
MAX_STOP_SEQUENCES = 4  # OpenAI's limit
MAX_EMBEDDING_INPUTS = 2048  # OpenAI's limit
EMBEDDING_DIMENSIONS = 768  # the default, and the most

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORT_PERCENT: dict[Effort, int] = {
    "none": 0,
    "minimal": 10,
    "low": 20,
    "medium": 50,
    "high": 80,
    "xhigh": 95,
    "max": 95,
}
"""The share of max_tokens that an effort stands for, where a model wants a number (OpenRouter's ratios)."""


Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class JsonSchema(Permissive):
    """A schema the answer has to follow."""

    name: str
    json_schema: Schema | None = Field(default=None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Permissive):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_given(self) -> Self:
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.json_schema is None):
            raise ValueError('type "json_schema" needs json_schema.schema')
        return self


class Reasoning(Permissive):
    """OpenRouter's reasoning object. `max_tokens` wins over `effort`."""

    effort: Effort | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    exclude: bool | None = None
    enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class Thinking:
    """The reasoning a client asked for. `max_tokens`, where given, wins over `effort`; `shown` = text wanted."""

    effort: Effort
    max_tokens: int | None
    shown: bool


class ChatRequest(Strict):
    """POST /v1/chat/completions."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[Int64, Field(ge=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Int64 | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_SEQUENCES)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: Effort | None = None
    include_reasoning: bool | None = None
    service_tier: Literal["standard", "auto", "default", "flex", "scale", "priority", "fast"] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    n: int | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    # Parsed with their types, then dropped: OpenAI's, then OpenRouter's.
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    metadata: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    web_search_options: dict[str, Any] | None = None
    top_a: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0, le=2)] | None = None
    cache_control: CacheControl | None = None
    models: list[str] | None = None
    route: str | None = None
    provider: dict[str, Any] | None = None
    transforms: list[str] | None = None
    plugins: list[dict[str, Any]] | None = None
    usage: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _agreeing_aliases(self) -> Self:
        asked = self.reasoning.effort if self.reasoning else None
        for one, other, names in (
            (self.max_tokens, self.max_completion_tokens, "max_tokens and max_completion_tokens"),
            (self.reasoning_effort, asked, "reasoning_effort and reasoning.effort"),
        ):
            if one is not None and other is not None and one != other:
                raise ValueError(f"{names} differ: give one of them")
        return self

    @property
    def thinking(self) -> Thinking | None:
        """The reasoning asked for under any of its names, `medium` where no size was given; None: not asked for."""
        given = self.reasoning or Reasoning()
        asked = self.reasoning is not None or self.reasoning_effort is not None or self.include_reasoning is True
        if not asked or given.enabled is False:
            return None
        effort = self.reasoning_effort or given.effort or "medium"
        return Thinking(effort, given.max_tokens, not given.exclude and self.include_reasoning is not False)

    @property
    def shows_reasoning(self) -> bool:
        """Whether the text of the reasoning is wanted."""
        return self.thinking is not None and self.thinking.shown

    @property
    def wanted_tier(self) -> Literal["standard", "flex"]:
        """`flex`, or `standard` for every other name of a tier."""
        return "flex" if self.service_tier == "flex" else "standard"

    @property
    def output_limit(self) -> int | None:
        """max_tokens under either of its names."""
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens

    @property
    def stop_sequences(self) -> list[str]:
        """`stop` as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


TaskType = Literal[
    "RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT", "SEMANTIC_SIMILARITY", "CLASSIFICATION", "CLUSTERING",
    "QUESTION_ANSWERING", "FACT_VERIFICATION", "CODE_RETRIEVAL_QUERY",
]  # fmt: skip
NonEmpty = Annotated[str, Field(min_length=1)]


class EmbeddingsRequest(Strict):
    """POST /v1/embeddings. Token arrays are not accepted: their numbers mean nothing to another tokenizer."""

    model: str
    input: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1, max_length=MAX_EMBEDDING_INPUTS)]
    dimensions: Annotated[int, Field(ge=1, le=EMBEDDING_DIMENSIONS)] | None = None
    task_type: TaskType | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None

    @property
    def inputs(self) -> list[str]:
        """`input` as a list."""
        return [self.input] if isinstance(self.input, str) else self.input
