"""An OpenAI chat request as a generateContent body (ai.google.dev, "GenerateContentRequest").

System and developer messages are hoisted into systemInstruction. All tool results of one assistant turn go into one
`user` content, in the order of the calls, with nothing else in it. Members without a counterpart are left out.
"""

import mimetypes
from typing import Any

import orjson

from services.workers.google.caching import Content, wanted, with_cache
from services.workers.google.models import FAMILIES, Family
from services.workers.google.schema import supported
from services.workers.google.tools import call_parts, declarations, tool_config, tool_results
from services.workers.google.vertex import authorised, model_url
from services.workers.provider import DISPROVED, Call, Plan, UpstreamRequest
from shared.catalog import Model
from shared.messages import AssistantMessage, ImageUrl, Message, Part, SystemMessage, TextPart, ToolMessage
from shared.openai import ChatRequest, Thinking

BUDGET_RANGE = (128, 32_768)  # thinkingBudget of gemini-2.5-pro
BUDGET_PERCENT = 80  # of max_tokens: what is left is for the answer itself
LEVEL_STEPS = ((1_024, "LOW"), (8_192, "MEDIUM"))  # reasoning.max_tokens up to which a level is chosen; else HIGH
PENALTIES = frozenset({"presencePenalty", "frequencyPenalty"})

NO_TURN = AssistantMessage(role="assistant")  # nothing was called yet

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
    system = [_part(part) for one in request.messages if isinstance(one, SystemMessage) for part in one.parts]
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
    turn, results = NO_TURN, list[ToolMessage]()
    with_ids = not family.legacy
    for message in messages:
        if isinstance(message, ToolMessage):
            results.append(message)
        elif not isinstance(message, SystemMessage):
            contents += tool_results(turn, results, with_ids=with_ids)
            turn, results = message if isinstance(message, AssistantMessage) else NO_TURN, []
            if parts := [*map(_part, message.parts), *call_parts(turn, with_ids=with_ids)]:
                contents.append({"role": "model" if message is turn else "user", "parts": parts})
    return contents + tool_results(turn, results, with_ids=with_ids)


def _part(part: Part) -> Body:
    return {"text": part.text} if isinstance(part, TextPart) else _image(part.image_url)


def _image(image: ImageUrl) -> Body:
    if (inline := image.inline) is None:  # fetched by the provider, never by us
        guessed = mimetypes.guess_type(image.url.partition("?")[0])[0] or ""
        media_type = guessed if guessed.startswith("image/") else "image/jpeg"
        return {"fileData": {"mimeType": media_type, "fileUri": image.url}}
    return {"inlineData": {"mimeType": inline[0], "data": inline[1]}}


def _generation_config(request: ChatRequest, model: Model, family: Family) -> Body:
    limit = None if request.output_limit is None else min(request.output_limit, model.max_output_tokens)
    config: Body = {
        "temperature": request.temperature,
        "topP": request.top_p,
        "topK": request.top_k,
        "maxOutputTokens": limit,
        "stopSequences": request.stop_sequences or None,
        **_response_format(request),
        "thinkingConfig": _thinking(request.thinking, family, limit),
    }
    if family.legacy:
        config["seed"], config["presencePenalty"] = request.seed, request.presence_penalty
        config["frequencyPenalty"] = request.frequency_penalty
    return {name: value for name, value in config.items() if value is not None}


def _response_format(request: ChatRequest) -> Body:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return {}
    schema = wanted.json_schema.json_schema if wanted.json_schema and wanted.type == "json_schema" else None
    return {"responseMimeType": "application/json", "responseJsonSchema": schema and supported(schema)}


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
