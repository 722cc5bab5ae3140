"""Whatever a body holds, each half answers or refuses; it never breaks."""

import base64
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from services.simulator import anthropic
from services.simulator.google import Google, embeddings
from services.simulator.google.errors import Refusal
from services.simulator.google.tenants import Tenant
from services.simulator.script import Call

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/x"}},
    "additionalProperties": False,
    "$defs": {"x": {"anyOf": [{"type": "array", "items": {"enum": ["y"]}}]}},
}
CLAUDE: Any = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 2000,
    "stream": True,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "[[chunks=3]]"}]}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "stop_sequences": ["x"],
}
GEMINI: Any = {
    "contents": [{"role": "user", "parts": [{"text": "the weather [[cached=3]]"}]}],
    "systemInstruction": {"parts": [{"text": "s"}]},
    "tools": [{"functionDeclarations": [{"name": "get_weather", "parametersJsonSchema": SCHEMA}]}],
    "toolConfig": {"functionCallingConfig": {"mode": "AUTO", "allowedFunctionNames": ["get_weather"]}},
    "generationConfig": {
        "responseMimeType": "application/json",
        "responseJsonSchema": SCHEMA,
        "thinkingConfig": {"thinkingLevel": "LOW"},
    },
}
EMBED: Any = {"requests": [{"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "a"}]}}]}
CACHE: Any = GEMINI | {"model": "models/gemini-3-flash-preview", "ttl": "300s", "displayName": "d"}
CACHE["systemInstruction"] = {"parts": [{"text": "s" * 5000}]}
del CACHE["generationConfig"]
PREDICT: Any = {"instances": [{"content": "a", "task_type": "CLUSTERING"}], "parameters": {"outputDimensionality": 128}}

KEYS = st.sampled_from(["type", "items", "properties", "$ref", "enum", "anyOf", "minimum", "text"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.sampled_from(["object", "[[x]]", "#/a/b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in members for place in places(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], by)
    return copy


def call(body: Any, path: dict[str, str]) -> Call:
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01", "x-goog-api-key": "k"}
    return Call("id", path, {"alt": "sse"}, headers, orjson.dumps(body), bytes(32), lambda: 1)


@given(st.sampled_from(places(CLAUDE)), JSON)
def test_claude_answers_or_refuses_any_body(path: tuple[Any, ...], value: Any) -> None:
    script = anthropic.respond(call(replaced(CLAUDE, path, value), {}))
    assert script.status in (200, 400, 404)
    assert script.body.frames


@given(st.sampled_from(places(GEMINI)), JSON, st.sampled_from(["generateContent", "streamGenerateContent"]))
def test_gemini_answers_or_refuses_any_body(path: tuple[Any, ...], value: Any, method: str) -> None:
    where = {"model": "gemini-3-flash-preview", "method": method}
    script = Google().respond(call(replaced(GEMINI, path, value), where))
    assert script.status in (200, 400, 403)
    assert all(orjson.loads(frame.data.removeprefix(b"data: ")) for frame in script.body.frames)


@given(st.sampled_from(places(EMBED)), JSON)
def test_embeddings_are_made_or_refused_for_any_body(path: tuple[Any, ...], value: Any) -> None:
    where = {"model": "gemini-embedding-001", "method": "batchEmbedContents"}
    assert Google().respond(call(replaced(EMBED, path, value), where)).status in (200, 400)


def route(google: Google, operation: str) -> Any:
    return next(one.respond for one in google.routes if one.operation == operation)


@given(st.sampled_from(places(CACHE)), JSON)
def test_caches_are_made_or_refused_for_any_body(path: tuple[Any, ...], value: Any) -> None:
    script = route(Google(), "cachedContents.create")(call(replaced(CACHE, path, value), {}))
    assert script.status in (200, 400, 404)


@given(st.sampled_from(places(PREDICT)), JSON)
def test_predictions_are_made_or_refused_for_any_body(path: tuple[Any, ...], value: Any) -> None:
    asked = call(replaced(PREDICT, path, value), {"model": "gemini-embedding-001", "method": "predict"})
    try:
        status = embeddings.predict(asked, Tenant("o", "projects/p/locations/l/", "l")).status
    except Refusal as refusal:
        status = refusal.status
    assert status in (200, 400)


@given(JSON, JSON)
def test_the_token_endpoint_refuses_whatever_proves_nothing(header: Any, payload: Any) -> None:
    parts = (base64.urlsafe_b64encode(orjson.dumps(part)) for part in (header, payload))
    body = b"grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer&assertion=" + b".".join([*parts, b"c2ln"])
    asked = Call("id", {}, {}, {}, body, bytes(32), lambda: 1)
    assert route(Google(), "token")(asked).status == 400
