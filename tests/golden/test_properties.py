"""What holds for every conversation that the public schema admits, and for every answer to it."""

import json
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings

from services.edge import rules
from services.workers import replies as written
from services.workers.anthropic.schema import strict
from services.workers.google.schema import KEYWORDS, MAPS, supported
from services.workers.memory import BoundedMemory
from services.workers.provider import Call, UpstreamReply, UpstreamRequest
from services.workers.reader import Translation
from shared import catalog
from shared.bodies import parse
from shared.errors import InvalidRequest
from shared.money import cost_pico
from shared.openai import ChatRequest
from tests.golden import conversations
from tests.golden.conversations import Json, Reply
from tests.golden.exchanges import said
from tests.golden.playing import PROVIDERS, SUPPLIERS
from tests.golden.sdk_types import CHECKS

CATALOG = catalog.load()
TAKEN_BY_ANTHROPIC = {
    "type", "properties", "required", "additionalProperties", "items", "minItems", "anyOf", "allOf", "enum", "const",
    "format", "description", "title", "$ref", "$defs",
}  # fmt: skip
thorough = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def translated(body: Json) -> tuple[ChatRequest, UpstreamRequest]:
    """The request, through the gates and its provider's plan. Raises InvalidRequest."""
    request = parse(ChatRequest, json.dumps(body).encode())
    model = CATALOG[request.model]
    rules.check_chat(request, model)
    call = Call(request, model, SUPPLIERS[model.provider], BoundedMemory(), "r", "w", 1795350000)
    plan = PROVIDERS[model.provider].plan(call)
    try:
        first = next(plan)
    except StopIteration as end:
        return request, end.value
    assert first.url.endswith("/cachedContents")
    try:
        plan.send(UpstreamReply(200, {}, b'{"name": "cachedContents/made"}'))
    except StopIteration as end:
        return request, end.value
    raise AssertionError("a plan makes one call before the last")


@thorough
@given(conversations.requests())
def test_any_conversation_becomes_a_body_that_the_sdks_types_accept_or_a_clean_400(body: Json) -> None:
    try:
        request, sent = translated(body)
    except InvalidRequest:
        return
    CHECKS[CATALOG[request.model].provider](json.loads(sent.body))


@thorough
@given(conversations.requests(stream=True), conversations.replies)
def test_whole_and_streamed_answers_say_count_and_cost_the_same(body: Json, reply: Reply) -> None:
    body = {"model": body["model"], "messages": [{"role": "user", "content": "hi"}]} | {
        name: body[name] for name in ("reasoning", "include_reasoning") if name in body
    }
    request, sent = translated(body)
    model = CATALOG[request.model]
    provider, says = PROVIDERS[model.provider], SAYS[model.provider]
    answer = provider.answer(request, sent, UpstreamReply(200, {}, orjson.dumps(says(reply, streamed=False)[0])))
    translation = Translation(provider.stream(request, sent, {}))
    deltas = [
        delta
        for event in says(reply, streamed=True)
        for delta in translation.feed(b"data: " + orjson.dumps(event) + b"\n\n")
    ]
    translation.end()
    stream = translation.stream
    assert stream.finish == answer.finish
    assert stream.usage.tokens == answer.usage.tokens
    chunks = written.Chunks(written.Head("r", 0, model.id))
    told = said(chunks.deltas(deltas))
    assert told["content"] == (answer.message["content"] or "")
    assert told["reasoning"] == answer.message.get("reasoning", "")
    functions = [call["function"] for call in answer.message.get("tool_calls", [])]
    assert [call["function"] for call in told["tool_calls"]] == functions
    assert cost_pico(stream.usage.tokens, model.rates) == cost_pico(answer.usage.tokens, model.rates) > 0


@thorough
@given(conversations.schemas)
def test_any_schema_is_cut_down_to_what_each_provider_takes_or_refused(schema: Json) -> None:
    assert keywords(supported(schema)) <= KEYWORDS
    try:
        closed = strict(schema)
    except InvalidRequest:
        return
    assert keywords(closed) <= TAKEN_BY_ANTHROPIC


def keywords(schema: Any) -> set[str]:
    """Every keyword in a schema; names of properties and definitions are none, nor is what an enum or const holds."""
    if isinstance(schema, list):
        return set().union(*map(keywords, schema))
    if not isinstance(schema, dict):
        return set()
    inner = [value for name, value in schema.items() if name not in MAPS | {"enum", "const", "required", "type"}]
    inner += [value for name in MAPS & schema.keys() for value in schema[name].values()]
    return set(schema).union(*map(keywords, inner))


def by_anthropic(reply: Reply, *, streamed: bool) -> list[Json]:
    """The whole message, or its events."""
    blocks: list[tuple[str, list[str]]] = [("thinking", reply.thoughts), ("text", reply.pieces)]
    usage = {"input_tokens": reply.prompt, "cache_read_input_tokens": reply.cached}
    ending = {
        "output_tokens": reply.output + reply.thought,
        "output_tokens_details": {"thinking_tokens": reply.thought},
    }
    if not streamed:
        content = [{"type": kind, kind: "".join(pieces)} for kind, pieces in blocks if pieces]
        return [{"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage | ending}]
    events: list[Json] = [{"type": "message_start", "message": {"usage": usage | {"output_tokens": 1}}}]
    for kind, pieces in blocks:
        events.append({"type": "content_block_start", "content_block": {"type": kind, kind: ""}})
        events += [{"type": "content_block_delta", "delta": {"type": f"{kind}_delta", kind: piece}} for piece in pieces]
        events.append({"type": "content_block_stop"})
    return [*events, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": ending}]


def by_google(reply: Reply, *, streamed: bool) -> list[Json]:
    """The whole response, or its chunks: the counts on each, the finish on a last, empty one."""
    parts: list[Json] = [{"text": piece, "thought": True} for piece in reply.thoughts]
    parts += [{"text": piece} for piece in reply.pieces]
    parts += [{"functionCall": {"id": f"call_{number}"} | call} for number, call in enumerate(reply.calls)]
    prompt = reply.prompt + reply.cached
    total = prompt + reply.output + reply.thought
    counts = {"promptTokenCount": prompt, "cachedContentTokenCount": reply.cached, "totalTokenCount": total}
    counts |= {"candidatesTokenCount": reply.output, "thoughtsTokenCount": reply.thought}

    def response(parts: list[Json], **ending: Any) -> Json:
        return {"candidates": [{"content": {"role": "model", "parts": parts}} | ending], "usageMetadata": counts}

    if not streamed:
        return [response(parts, finishReason="STOP")]
    return [*(response([part]) for part in parts), response([{"text": ""}], finishReason="STOP")]


SAYS = {"anthropic": by_anthropic, "google": by_google}
