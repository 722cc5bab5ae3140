"""What the public API answers, as models: for its OpenAPI document, and for tests that hold real answers against it.

Nothing is parsed with them on the way: answers are relayed as bytes.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Usd = Annotated[str, Field(description="USD as a decimal string, never rounded")]
Pico = Annotated[str, Field(description="pico-dollars (1e-12 USD) as a decimal string")]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(_Answer):
    message: str
    type: Literal["invalid_request_error", "authentication_error", "upstream_error", "api_error", "requests", "tokens"]
    code: str | None
    param: str | None = Field(default=None, description="the member of the request at fault")
    event_id: str | None = Field(default=None, description="with a 500: what to quote to the operator")


class Error(_Answer):
    error: ErrorDetail


class PromptDetails(_Answer):
    cached_tokens: int
    cache_creation_tokens: int
    cache_creation_1h_tokens: int | None = None


class CompletionDetails(_Answer):
    reasoning_tokens: int


class Usage(_Answer):
    """Details break the totals down and never add to them; `cost` is in USD, with up to 12 decimals."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    cost: float


class Function(_Answer):
    name: str
    arguments: str = Field(description="a JSON object as text")


class ToolCall(_Answer):
    index: int | None = None
    id: str
    type: Literal["function"]
    function: Function
    extra_content: dict[str, Any] | None = Field(default=None, description="send it back with the call")


class AssistantMessage(_Answer):
    role: Literal["assistant"]
    content: str | None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(_Answer):
    index: Literal[0]
    message: AssistantMessage
    finish_reason: FinishReason


class ChatCompletion(_Answer):
    id: str = Field(pattern="^chatcmpl-")
    object: Literal["chat.completion"]
    created: int
    model: str
    service_tier: Literal["flex"] | None = None
    choices: list[Choice]
    usage: Usage


class Delta(_Answer):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChunkChoice(_Answer):
    index: Literal[0]
    delta: Delta
    finish_reason: FinishReason | None


class ChatCompletionChunk(_Answer):
    """An event of a stream. The last one has no choices and carries the usage; then comes `[DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    service_tier: Literal["flex"] | None = None
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Embedding(_Answer):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="numbers, or base64 of little-endian float32")


class EmbeddingsUsage(_Answer):
    prompt_tokens: int
    total_tokens: int
    cost: float


class EmbeddingList(_Answer):
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingsUsage


class Pricing(_Answer):
    """USD per 1M tokens; null: no distinct cache rate."""

    input: float
    output: float
    cache_read: float | None
    cache_write: float | None


class Model(_Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    pricing: Pricing
    pricing_version: str
    context_length: int
    max_output_tokens: int
    capabilities: list[str]


class ModelList(_Answer):
    object: Literal["list"]
    data: list[Model]


class Credits(_Answer):
    workspace_id: str
    balance_usd: Usd
    held_usd: Usd = Field(
        description="what requests under way hold, and what ended ones cost until it is booked; where several edges"
        " serve the workspace, also what the others have in hand: some 0.10 USD or more, for about a minute after use"
    )
    available_usd: Usd = Field(description="balance_usd less held_usd")
    strict: bool


class Key(_Answer):
    key_id: str
    label: str | None
    expires_at: str | None
    spend_limit_usd: Usd | None
    limit_reset: Literal["daily", "weekly", "monthly"] | None
    window_spend_usd: Usd
    window_resets_at: str | None


class Receipt(BaseModel):
    """The settled record of a request; `debit` is null where it cost nothing."""

    id: str
    request_id: str
    workspace_id: str
    key_id: str
    model: str
    outcome: str
    tokens: dict[str, int]
    rates_pico_usd_per_token: dict[str, int]
    cost_pico_usd: Pico
    cost_usd: Usd
    debit: dict[str, Any] | None
    proof: dict[str, Any] | None


class Ready(_Answer):
    status: Literal["ok", "unavailable"]
    checks: dict[str, str] | None = None
