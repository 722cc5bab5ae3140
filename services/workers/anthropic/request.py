"""An OpenAI chat request as a Messages API body (docs.claude.com, "Create a Message").

System and developer messages are hoisted, in their order; the rest becomes blocks; empty text goes, since the API
refuses it. Members without a counterpart are left out. Which sampling and thinking a model takes: `models.py`.
"""

from typing import Any

import orjson

from services.workers.anthropic.models import FAMILIES, Family
from services.workers.anthropic.schema import strict
from services.workers.anthropic.wire import headers
from services.workers.provider import Call, Plan, UpstreamRequest
from shared.catalog import Model
from shared.errors import InvalidRequest
from shared.messages import ImageUrl, Message, Part, SystemMessage, TextPart
from shared.openai import EFFORT_PERCENT, ChatRequest, Effort, Thinking

MIN_THINKING_BUDGET = 1_024  # the API's own minimum
MAX_CACHE_BREAKPOINTS = 4  # the API's own maximum
STEPS: tuple[Effort, ...] = ("low", "medium", "high")  # the first that the share asked for fits in; else xhigh
MEDIA_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")

Body = dict[str, Any]


def plan(call: Call[ChatRequest]) -> Plan:
    """The one call that answers. Raises InvalidRequest for what the API has no words for."""
    yield from ()  # a generator by contract, though no call is needed before
    content = orjson.dumps(body(call.request, call.model))
    return UpstreamRequest(f"{call.supplier.base_url}/v1/messages", headers(call.supplier), content)


def body(request: ChatRequest, model: Model) -> Body:
    """The request's JSON."""
    max_tokens = model.output_tokens(request.output_limit)  # the API demands a number
    family = FAMILIES[model.family]
    thinking, effort = _thinking(request.thinking, family, max_tokens)
    system = [_block(part) for one in request.messages if isinstance(one, SystemMessage) for part in one.parts]
    turns = [_turn(message) for message in request.messages if not isinstance(message, SystemMessage)]
    stop = [sequence for sequence in request.stop_sequences if sequence.strip()]  # the API refuses blank ones
    translated: Body = {
        "model": model.upstream,
        "max_tokens": max_tokens,
        **({"system": system} if system else {}),
        "messages": [turn for turn in turns if turn["content"]],
        **(_sampling(request) if family.sampling and not thinking else {}),
        **thinking,
        **_output_config(request, effort),
        **({"stop_sequences": stop} if stop else {}),
        **({"stream": True} if request.stream else {}),
    }
    _check_breakpoints(translated)
    return translated


def _turn(message: Message) -> Body:
    blocks = [_block(part) for part in message.parts]
    return {"role": "assistant" if message.role == "assistant" else "user", "content": blocks}


def _block(part: Part) -> Body:
    block: Body = {"type": "text", "text": part.text} if isinstance(part, TextPart) else _image(part.image_url)
    if part.cache_control is not None:
        block["cache_control"] = part.cache_control.model_dump(include={"type", "ttl"}, exclude_none=True)
    return block


def _image(image: ImageUrl) -> Body:
    if (inline := image.inline) is None:  # fetched by the provider, never by us
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    media_type, data = inline
    if media_type not in MEDIA_TYPES:
        raise InvalidRequest(f"images must be one of {', '.join(MEDIA_TYPES)}, not {media_type}", param="messages")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _sampling(request: ChatRequest) -> Body:
    """Temperature wins: Claude 4.5 and later refuse it together with top_p."""
    sampling: Body = {}
    if request.temperature is not None:
        sampling["temperature"] = min(request.temperature, 1.0)
    elif request.top_p is not None:
        sampling["top_p"] = request.top_p
    if request.top_k is not None:
        sampling["top_k"] = request.top_k
    return sampling


def _output_config(request: ChatRequest, effort: str | None) -> Body:
    """The effort, and a schema the answer has to follow; any other response_format is left to the prompt."""
    config: Body = {"effort": effort} if effort else {}
    wanted = request.response_format
    if wanted is not None and wanted.json_schema is not None and wanted.type == "json_schema":
        config["format"] = {"type": "json_schema", "schema": strict(wanted.json_schema.json_schema)}
    return {"output_config": config} if config else {}


def _thinking(asked: Thinking | None, family: Family, max_tokens: int) -> tuple[Body, str | None]:
    """The `thinking` member and the effort; none where no thinking was asked for, or none fits max_tokens."""
    if asked is None or (asked.effort == "none" and asked.max_tokens is None):
        return {}, None
    if family.thinks == "budget" or (family.thinks == "effort or budget" and asked.max_tokens is not None):
        wanted = asked.max_tokens or EFFORT_PERCENT[asked.effort] * max_tokens // 100
        if max_tokens <= MIN_THINKING_BUDGET:
            return {}, None
        budget = min(max(MIN_THINKING_BUDGET, wanted), max_tokens - 1)
        hidden = {} if asked.shown else {"display": "omitted"}
        return {"thinking": {"type": "enabled", "budget_tokens": budget, **hidden}}, None
    display = {"display": "summarized"} if asked.shown else {"display": "omitted"}
    if asked.shown and family.thinks != "effort":
        display = {}  # these models summarise by themselves
    return {"thinking": {"type": "adaptive", **display}}, _effort(asked, family, max_tokens)


def _effort(asked: Thinking, family: Family, max_tokens: int) -> str:
    effort: str = asked.effort
    if asked.max_tokens is not None:
        share = 100 * asked.max_tokens
        effort = next((one for one in STEPS if share <= EFFORT_PERCENT[one] * max_tokens), "xhigh")
    if effort in family.efforts:
        return effort
    return "low" if effort == "minimal" else "high"


def _check_breakpoints(translated: Body) -> None:
    blocks = [*translated.get("system", []), *(block for turn in translated["messages"] for block in turn["content"])]
    if (count := sum("cache_control" in block for block in blocks)) > MAX_CACHE_BREAKPOINTS:
        raise InvalidRequest(
            f"{count} parts carry cache_control: at most {MAX_CACHE_BREAKPOINTS} may", param="messages"
        )
