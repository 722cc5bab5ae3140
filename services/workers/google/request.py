"""An OpenAI chat request as a generateContent body (ai.google.dev, "GenerateContentRequest").

System and developer messages are hoisted into systemInstruction. All tool results of one assistant turn go into one
`user` content, in the order of the calls, with nothing else in it. Members without a counterpart are left out.
"""

import mimetypes
import re
from typing import Any

import orjson

from services.workers.google.caching import Content, wanted, with_cache
from services.workers.google.models import FAMILIES, Family
from services.workers.google.schema import supported
from services.workers.google.tools import CallsOfTurn, call_parts, declarations, tool_config
from services.workers.google.vertex import authorised, model_url
from services.workers.provider import DISPROVED, Call, Plan, UpstreamRequest
from shared.catalog import Model
from shared.errors import InvalidRequest
from shared.openai import (
    AssistantMessage,
    ChatRequest,
    ImagePart,
    Message,
    RefusalPart,
    SystemMessage,
    TextPart,
    Thinking,
    ToolMessage,
)

BUDGET_RANGE = (128, 32_768)  # thinkingBudget of gemini-2.5-pro
BUDGET_PERCENT = 80  # of max_tokens: what is left is for the answer itself
LEVEL_STEPS = ((1_024, "LOW"), (8_192, "MEDIUM"))  # reasoning.max_tokens up to which a level is chosen; else HIGH
PENALTIES = frozenset({"presencePenalty", "frequencyPenalty"})
DATA_URL = re.compile(r"data:(image/[\w.+-]+);base64,(.+)", re.DOTALL)

Body = dict[str, Any]


def plan(call: Call[ChatRequest]) -> Plan:
    """A token and a cache first, where they are needed; then the call that answers. Raises InvalidRequest, Failed."""
    credentials = yield from authorised(call)
    content = Content(body(call.request, call.model))
    if wanted(call.request):
        content = yield from with_cache(call, credentials, content.body)
    sent, assumes = _with_penalties(call, content.body)
    method = "streamGenerateContent?alt=sse" if call.request.stream else "generateContent"
    return UpstreamRequest(
        f"{model_url(call.supplier, call.model.upstream)}:{method}",
        credentials.headers,
        orjson.dumps(sent),
        assumes={**credentials.assumes, **content.assumes, **assumes},
        writes_cache=content.writes_cache,
    )


def _with_penalties(call: Call[ChatRequest], sent: Body) -> tuple[Body, dict[str, str]]:
    """Penalties are sent on the assumption that the model takes them; not every version of it does."""
    config = sent.get("generationConfig", {})
    if not PENALTIES & config.keys():
        return sent, {}
    key = f"penalties:{call.supplier.name}:{call.model.upstream}"
    if call.memory.get(key) is not DISPROVED:
        return sent, {"penalties": key}
    return {**sent, "generationConfig": {name: config[name] for name in config.keys() - PENALTIES}}, {}


def body(request: ChatRequest, model: Model) -> Body:
    """The request's JSON."""
    family = FAMILIES[model.family]
    system = [part for message in request.messages if isinstance(message, SystemMessage) for part in _parts(message)]
    config = _generation_config(request, model, family)
    return {
        "contents": _contents(request.messages, family),
        **({"systemInstruction": {"parts": system}} if system else {}),
        **({"tools": declarations(request.tools)} if request.tools else {}),
        **({"toolConfig": tool_config(request.tool_choice)} if request.tools and request.tool_choice else {}),
        **({"generationConfig": config} if config else {}),
    }


def _contents(messages: list[Message], family: Family) -> list[Body]:
    contents: list[Body] = []
    turn = CallsOfTurn.none()
    for message in messages:
        if isinstance(message, SystemMessage):
            continue
        if isinstance(message, ToolMessage):
            turn.add_result(message)
            continue
        contents += turn.results()
        turn = CallsOfTurn.none()
        if isinstance(message, AssistantMessage):
            turn = CallsOfTurn.of(message, with_ids=not family.legacy)
            contents += _content("model", _parts(message) + call_parts(message, with_ids=not family.legacy))
        else:
            contents += _content("user", _parts(message))
    return contents + turn.results()


def _content(role: str, parts: list[Body]) -> list[Body]:
    return [{"role": role, "parts": parts}] if parts else []


def _parts(message: Message) -> list[Body]:
    content = message.content or (message.refusal if isinstance(message, AssistantMessage) else None) or []
    if isinstance(content, str):
        return [{"text": content}]
    return [part for item in content if (part := _part(item)) != {"text": ""}]


def _part(part: TextPart | ImagePart | RefusalPart) -> Body:
    if isinstance(part, TextPart):
        return {"text": part.text}
    return {"text": part.refusal} if isinstance(part, RefusalPart) else _image(part.image_url.url)


def _image(url: str) -> Body:
    if url.startswith("https://"):  # fetched by the provider, never by us
        guessed = mimetypes.guess_type(url.partition("?")[0])[0] or ""
        return {"fileData": {"mimeType": guessed if guessed.startswith("image/") else "image/jpeg", "fileUri": url}}
    if not (match := DATA_URL.fullmatch(url)):
        raise InvalidRequest("images must be https URLs, or base64 data URLs", param="messages")
    media_type, data = match.groups()
    return {"inlineData": {"mimeType": media_type, "data": data}}


def _generation_config(request: ChatRequest, model: Model, family: Family) -> Body:
    limit = None if request.output_limit is None else min(request.output_limit, model.max_output_tokens)
    config: Body = {
        "temperature": request.temperature,
        "topP": request.top_p,
        "topK": request.top_k,
        "maxOutputTokens": limit,
        "stopSequences": request.stop_sequences or None,
        **(
            {
                "seed": request.seed,
                "presencePenalty": request.presence_penalty,
                "frequencyPenalty": request.frequency_penalty,
            }
            if family.legacy
            else {}
        ),
        **_response_format(request),
        "thinkingConfig": _thinking(request.thinking, family, limit),
    }
    return {name: value for name, value in config.items() if value is not None}


def _response_format(request: ChatRequest) -> Body:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return {}
    schema = wanted.json_schema.json_schema if wanted.json_schema else None
    return {
        "responseMimeType": "application/json",
        "responseJsonSchema": supported(schema) if wanted.type == "json_schema" else None,
    }


def _thinking(asked: Thinking | None, family: Family, limit: int | None) -> Body | None:
    """The thinkingConfig; None leaves the model to its default, which is to think and to bill it."""
    if asked is None:
        return None
    shown = asked.shown and (asked.effort != "none" or asked.max_tokens is not None)
    if family.levels is not None:
        return {"thinkingLevel": _level(asked, family), **({"includeThoughts": True} if shown else {})}
    if family.budgets is None or (asked.effort == "none" and asked.max_tokens is None):
        return None  # gemini-2.5-pro cannot stop thinking
    return {"thinkingBudget": _budget(asked, family, limit), **({"includeThoughts": True} if shown else {})}


def _level(asked: Thinking, family: Family) -> str:
    assert family.levels is not None
    if asked.max_tokens is None:
        return family.levels[asked.effort]
    return next((level for most, level in LEVEL_STEPS if asked.max_tokens <= most), "HIGH")


def _budget(asked: Thinking, family: Family, limit: int | None) -> int:
    assert family.budgets is not None
    least, most = BUDGET_RANGE
    if asked.max_tokens is not None:
        return min(max(asked.max_tokens, least), most)
    budget = family.budgets[asked.effort]
    return budget if limit is None else max(min(budget, limit * BUDGET_PERCENT // 100), least)
