"""Requests that the public schema admits, and answers that a provider may give to them, as Hypothesis makes them."""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from shared import catalog

MODELS = sorted(model.id for model in catalog.load() if "embeddings" not in model.capabilities)
PNG = "data:image/png;base64,iVBORw0KGgo="
NAMES = st.sampled_from(["get_weather", "now", "lookup-2"])
EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh", "max"]

Json = dict[str, Any]

words = st.one_of(st.sampled_from(["", " ", "hi", "안녕 🙂", '{"a": 1}', "[1]"]), st.text(max_size=12))
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def members(always: Json | None = None, /, **optional: Any) -> st.SearchStrategy[Json]:
    """An object with these members, of which the optional ones may be absent."""
    return st.fixed_dictionaries(always or {}, optional=optional)


def _schema_nodes(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return members(
        type=st.sampled_from(["object", "array", "string", "integer", "null"])
        | st.just(["string", "null"])
        | json_values,
        properties=st.dictionaries(words, inner, max_size=2),
        items=inner,
        prefixItems=st.lists(inner, max_size=2),
        anyOf=st.lists(inner, max_size=2),
        oneOf=st.lists(inner, max_size=2),
        enum=st.lists(json_values, max_size=2),
        const=json_values,
        required=st.lists(words, max_size=2),
        additionalProperties=st.booleans() | inner,
        minItems=json_values,
        format=st.sampled_from(["date", "colour"]) | json_values,
        description=words | st.none(),
        pattern=words,
        **{"$ref": st.just("#/$defs/a"), "$defs": st.fixed_dictionaries({"a": inner})},
    )


schemas = st.recursive(st.fixed_dictionaries({"type": st.just("string")}), _schema_nodes, max_leaves=6)

cache_controls = st.sampled_from([None, {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}])
texts = members({"type": st.just("text"), "text": words}, cache_control=cache_controls)
refusals = members({"type": st.just("refusal"), "refusal": words})
urls = st.sampled_from([PNG, "https://example.com/a.webp?b=c", "https://example.com/a", "data:image/svg+xml,<svg/>"])
images = st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, urls)


def system() -> st.SearchStrategy[list[Json]]:
    content = words | st.lists(texts, min_size=1, max_size=3)
    return members({"role": st.sampled_from(["system", "developer"]), "content": content}).map(lambda one: [one])


def user() -> st.SearchStrategy[list[Json]]:
    content = words | st.lists(texts | images, min_size=1, max_size=3)
    return members({"role": st.just("user"), "content": content}, name=words).map(lambda one: [one])


def assistant() -> st.SearchStrategy[list[Json]]:
    """An earlier answer, with whatever an OpenAI SDK dumps beside it."""
    content = st.none() | words | st.lists(texts | refusals, max_size=3)
    echoed = {"annotations": st.just([]), "audio": st.none(), "function_call": st.none(), "parsed": json_values}
    said = {"refusal": st.none() | words, "reasoning": st.none() | words, "tool_calls": st.none()}
    return members({"role": st.just("assistant"), "content": content}, **said, **echoed).map(lambda one: [one])


@st.composite
def step(draw: st.DrawFn) -> list[Json]:
    """A turn with calls, and the results in any order; now and then one is missing, or is for another call."""
    signature = st.fixed_dictionaries({"google": st.fixed_dictionaries({"thought_signature": st.just("c2ln")})})
    arguments = st.dictionaries(words, json_values, max_size=2).map(json.dumps) | words
    ids = [
        f"{draw(st.sampled_from(['call_ot_', 'call_', 'toolu_']))}{number}" for number in range(draw(st.integers(1, 3)))
    ]
    calls = [
        {"id": one, "type": "function", "function": {"name": draw(NAMES), "arguments": draw(arguments)}}
        | draw(members(extra_content=signature, index=st.just(0)))
        for one in ids
    ]
    turn: Json = {"role": "assistant", "content": draw(st.none() | words), "tool_calls": calls}
    if draw(st.booleans()):
        encrypted = {"type": "reasoning.encrypted", "id": ids[0], "data": "c2ln", "format": "google-gemini-v1"}
        turn["reasoning_details"] = [{"type": "reasoning.text", "text": "…"}, encrypted]
    answered = draw(st.permutations([*ids, "call_of_nobody"]).map(lambda mixed: [*mixed][: len(ids)]) | st.just(ids))
    content = words | st.lists(texts, max_size=2)
    return [turn, *({"role": "tool", "tool_call_id": one, "content": draw(content)} for one in answered)]


@st.composite
def conversations(draw: st.DrawFn, *, tools: bool) -> list[Json]:
    turns = [system(), user(), assistant(), *([step()] if tools else [])]
    return [message for turn in draw(st.lists(st.one_of(turns), min_size=1, max_size=5)) for message in turn]


functions = members({"name": NAMES}, description=words, parameters=schemas, strict=st.booleans())
tools = st.lists(functions.map(lambda one: {"type": "function", "function": one}), max_size=2)
choices = st.sampled_from(["none", "auto", "required"]) | st.one_of(
    NAMES.map(lambda name: {"type": "function", "function": {"name": name}}),
    st.builds(
        lambda mode, name: {
            "type": "allowed_tools",
            "allowed_tools": {"mode": mode, "tools": [{"type": "function", "function": {"name": name}}]},
        },
        st.sampled_from(["auto", "required"]),
        NAMES,
    ),
)
formats = st.one_of(
    st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
    schemas.map(lambda schema: {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
)


@st.composite
def requests(draw: st.DrawFn, *, stream: bool | None = None) -> Json:
    """A request for any chat model; with tools where the model has them."""
    model = draw(st.sampled_from(MODELS))
    with_tools = model.startswith("google/")
    asked = draw(
        members(
            temperature=st.floats(0, 2),
            top_p=st.floats(0, 1),
            top_k=st.integers(1, 2**63),
            presence_penalty=st.floats(-2, 2),
            seed=st.integers(-(2**63), 2**63),
            max_tokens=st.integers(1, 200_000),
            stop=words | st.lists(words, max_size=4),
            response_format=formats,
            reasoning=members(
                effort=st.sampled_from(EFFORTS),
                max_tokens=st.integers(1, 10**6),
                exclude=st.booleans(),
                enabled=st.booleans(),
            ),
            include_reasoning=st.booleans(),
            service_tier=st.sampled_from(["auto", "flex"]),
            user=words,
            metadata=st.dictionaries(words, words, max_size=1),
            **({"tools": tools, "tool_choice": choices} if with_tools else {}),
        )
    )
    messages = draw(conversations(tools=with_tools))
    return {"model": model, "messages": messages, "stream": draw(st.booleans()) if stream is None else stream} | asked


@dataclass(frozen=True)
class Reply:
    """What a provider says, in pieces; counts in the provider's own sense."""

    thoughts: list[str]
    pieces: list[str]
    calls: list[Json]
    prompt: int
    cached: int
    output: int
    thought: int


counts = st.integers(1, 10**6)
heard = st.lists(st.text(min_size=1, max_size=8), max_size=3)
made_calls = st.lists(
    members({"name": NAMES}, args=st.dictionaries(words, json_values.filter(lambda v: v is not None), max_size=2)),
    max_size=2,
)
replies = st.builds(Reply, heard, heard, made_calls, counts, st.integers(0, 10**6), counts, st.integers(0, 10**6))
