"""What the Gemini API refuses beyond shapes, most of it by model: each check returns its complaint, or None."""

from collections.abc import Callable, Iterator
from typing import Any

from services.simulator.google.models import (
    CONTEXT_TOKENS,
    DYNAMIC_BUDGET,
    MAX_BUDGET,
    MIN_BUDGET,
    Gemini,
)
from services.simulator.google.request import Content, GenerateRequest, tokens_by_modality

KEYWORDS = frozenset(
    {"$id", "$defs", "$ref", "$anchor", "type", "format", "title", "description", "enum", "required"}
    | {"items", "prefixItems", "minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf"}
    | {"properties", "additionalProperties", "propertyOrdering"}
)  # ai.google.dev, "Structured outputs", supported properties

Check = Callable[[GenerateRequest, Gemini], str | None]


def context(request: GenerateRequest, _: Gemini) -> str | None:
    """The model's context."""
    if sum(tokens_by_modality(request).values()) > CONTEXT_TOKENS:
        return f"The input token count exceeds the maximum number of tokens allowed {CONTEXT_TOKENS}."
    return None


def roles(request: GenerateRequest, _: Gemini) -> str | None:
    """Who speaks."""
    if any(turn.role not in (None, "user", "model") for turn in request.contents):
        return "Please use a valid role: user, model."
    return None


def calls(request: GenerateRequest, model: Gemini) -> str | None:
    """Each step of calls: signed where the model checks it, and answered whole in the turn that follows."""
    for turn, following in zip(request.contents, [*request.contents[1:], None], strict=True):
        made = [part for part in turn.parts if part.function_call is not None]
        if not made:
            continue
        if model.checks_signatures and made[0].thought_signature is None:
            return "Function call is missing a thought_signature in functionCall parts."
        if not _answers(following, len(made)):
            return (
                "Please ensure that the number of function response parts is equal to the number of "
                "function call parts of the function call turn."
            )
    return None


def _answers(turn: Content | None, calls: int) -> bool:
    return turn is not None and len(turn.parts) == calls and all(part.function_response for part in turn.parts)


def cached_prefix(request: GenerateRequest, _: Gemini) -> str | None:
    """What may not stand beside cached content."""
    beside = request.model_fields_set & {"system_instruction", "tools", "tool_config"}
    if request.cached_content is not None and beside:
        return (
            "CachedContent can not be used with GenerateContent request setting system_instruction, tools or "
            "tool_config. Proposed fix: move those values to CachedContent from GenerateContent request."
        )
    return None


def penalties(request: GenerateRequest, model: Gemini) -> str | None:
    """Penalties and the seed."""
    config = request.generation_config
    if model.takes_penalties:
        return None
    if config.presence_penalty or config.frequency_penalty:
        return "Penalty is not enabled for this model"
    return None if config.seed is None else "Seed is not enabled for this model"


def thinking(request: GenerateRequest, model: Gemini) -> str | None:
    """Level or budget, and which of them."""
    config = request.generation_config.thinking_config
    level, budget = config.thinking_level, config.thinking_budget
    if level is not None and budget is not None:
        return "You can only set only one of thinking budget and thinking level."
    if level is not None and level not in model.levels:
        return f"Thinking level {level} is not supported for this model."
    if budget is not None and budget != DYNAMIC_BUDGET and not MIN_BUDGET <= budget <= MAX_BUDGET:
        return f"The thinking budget {budget} is invalid. Please choose a value between {MIN_BUDGET} and {MAX_BUDGET}."
    return None


def schemas(request: GenerateRequest, _: Gemini) -> str | None:
    """Where a schema may stand, and its keywords."""
    config = request.generation_config
    given = [schema for schema in (config.response_schema, config.response_json_schema) if schema is not None]
    if len(given) > 1:
        return "Only one of response_schema and response_json_schema can be set."
    if given and config.response_mime_type != "application/json":
        return "response_schema is only supported with response_mime_type application/json."
    places = [config.response_json_schema, *(function.parameters_json_schema for function in request.functions)]
    for node in (node for schema in places for node in _nodes(schema)):
        if unknown := sorted(node.keys() - KEYWORDS):
            return f"Unknown keyword in JSON schema: {unknown[0]}"
        if "$ref" in node and any(not keyword.startswith("$") for keyword in node):
            return "A JSON schema with $ref may only have other members that start with $."
    return None


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema inside a schema; names of properties and definitions are no keywords."""
    if not isinstance(schema, dict):
        return
    yield schema
    for keyword, value in schema.items():
        if keyword in ("properties", "$defs") and isinstance(value, dict):
            inner = list(value.values())
        elif keyword in ("anyOf", "oneOf", "prefixItems") and isinstance(value, list):
            inner = value
        else:
            inner = [value] if keyword in ("items", "additionalProperties") else []
        for one in inner:
            yield from _nodes(one)


CHECKS: tuple[Check, ...] = (roles, context, calls, cached_prefix, penalties, thinking, schemas)
