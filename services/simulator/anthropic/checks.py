"""What the Messages API refuses beyond shapes, most of it by model: each check returns its complaint, or None."""

from collections.abc import Callable, Iterator
from typing import Any

from services.simulator.anthropic.models import Claude
from services.simulator.anthropic.request import MessagesRequest, Text

MAX_BREAKPOINTS = 4  # docs.claude.com, "Prompt caching"
MIN_THINKING_TOP_P = 0.95  # docs.claude.com, "Extended thinking"
REFUSED_KEYWORDS = frozenset(
    {"oneOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    | {"minLength", "maxLength", "pattern", "maxItems", "uniqueItems", "minProperties", "maxProperties"}
)  # docs.claude.com, "Structured outputs", limitations

Check = Callable[[MessagesRequest, Claude], str | None]


def output_limit(request: MessagesRequest, model: Claude) -> str | None:
    """The model's maximum of output tokens."""
    if request.max_tokens > model.max_output:
        return (
            f"max_tokens: {request.max_tokens} > {model.max_output}, "
            f"which is the maximum allowed number of output tokens for {model.id}"
        )
    return None


def context(request: MessagesRequest, model: Claude) -> str | None:
    """The model's context."""
    tokens = sum(block.tokens for block in request.blocks)
    return f"prompt is too long: {tokens} tokens > {model.context} maximum" if tokens > model.context else None


def turns(request: MessagesRequest, model: Claude) -> str | None:
    """Who speaks first, and last."""
    if request.messages[0].role != "user":
        return 'messages: first message must use the "user" role'
    if request.messages[-1].role == "assistant" and not model.prefills:
        return "This model does not support assistant message prefill. The conversation must end with a user message."
    return None


def content(request: MessagesRequest, _: Claude) -> str | None:
    """Nothing empty."""
    if not all(message.content for message in request.messages):
        return "messages: all messages must have non-empty content"
    if any(isinstance(block, Text) and not block.text for block in request.blocks):
        return "messages: text content blocks must be non-empty"
    if not all(stop.strip() for stop in request.stop_sequences):
        return "stop_sequences: each stop sequence must contain non-whitespace"
    return None


def breakpoints(request: MessagesRequest, _: Claude) -> str | None:
    """Number and order of cache breakpoints."""
    lives = [block.cache_control.ttl for block in request.blocks if block.cache_control]
    if len(lives) > MAX_BREAKPOINTS:
        return f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. Found {len(lives)}."
    if lives != sorted(lives):  # "1h" sorts before "5m"
        return "cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block"
    return None


def sampling(request: MessagesRequest, model: Claude) -> str | None:
    """Temperature and its kin."""
    given = {name for name in ("temperature", "top_p", "top_k") if getattr(request, name) is not None}
    if given and not model.samples:
        return f"`{min(given)}` is not supported for this model"
    if {"temperature", "top_p"} <= given:
        return "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
    return None


def thinking_sampling(request: MessagesRequest, _: Claude) -> str | None:
    """Temperature and its kin beside thinking."""
    if not request.thinks:
        return None
    if request.temperature not in (None, 1):
        return "`temperature` may only be set to 1 when thinking is enabled"
    if request.top_k is not None:
        return "`top_k` must be unset when thinking is enabled"
    if request.top_p is not None and request.top_p < MIN_THINKING_TOP_P:
        return f"`top_p` must be greater than or equal to {MIN_THINKING_TOP_P} or unset when thinking is enabled"
    return None


def thinking(request: MessagesRequest, model: Claude) -> str | None:
    """Which kind of thinking the model takes, and its budget."""
    wanted = request.thinking
    if wanted is None or wanted.type == "disabled":
        return None
    if wanted.type == "adaptive":
        return None if model.thinks_adaptively else "adaptive thinking is not supported on this model"
    if not model.thinks_by_budget:
        return (
            '"thinking.type.enabled" is not supported for this model. '
            'Use "thinking.type.adaptive" and "output_config.effort" to control thinking behavior.'
        )
    if wanted.budget_tokens is None:
        return "thinking.enabled.budget_tokens: Field required"
    if wanted.budget_tokens >= request.max_tokens:
        return "`max_tokens` must be greater than `thinking.budget_tokens`."
    return None


def effort(request: MessagesRequest, model: Claude) -> str | None:
    """The levels of effort that the model has."""
    level = request.output_config.effort
    if level is None or level in model.efforts:
        return None
    if not model.efforts:
        return "This model does not support the effort parameter."
    levels = ", ".join(sorted(model.efforts))
    return f"This model does not support effort level '{level}'. Supported levels: {levels}."


def output_schema(request: MessagesRequest, _: Claude) -> str | None:
    """The subset of JSON Schema that structured outputs compile."""
    if request.output_config.format is None:
        return None
    for node in _nodes(request.output_config.format.output_schema):
        if refused := sorted(REFUSED_KEYWORDS & node.keys()):
            return f"output_config.format.schema: property '{refused[0]}' is not supported"
        if node.get("type") == "object" and node.get("additionalProperties") is not False:
            return (
                "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false"
            )
    return None


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema inside a schema; names of properties and definitions are no keywords."""
    if not isinstance(schema, dict):
        return
    yield schema
    for keyword, value in schema.items():
        if keyword in ("properties", "$defs", "definitions") and isinstance(value, dict):
            inner = list(value.values())
        elif keyword in ("anyOf", "allOf") and isinstance(value, list):
            inner = value
        else:
            inner = [value] if keyword == "items" else []
        for one in inner:
            yield from _nodes(one)


CHECKS: tuple[Check, ...] = (
    output_limit,
    turns,
    content,
    context,
    breakpoints,
    sampling,
    thinking_sampling,
    thinking,
    effort,
    output_schema,
)
