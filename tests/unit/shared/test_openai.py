"""What clients may send: all of it is understood, the rest is refused by name, and nothing else ever happens."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai.lib._parsing._completions import parse_chat_completion  # what `.parse()` of the SDK returns
from openai.types.chat import ChatCompletion

from shared.bodies import parse
from shared.errors import InvalidRequest
from shared.openai import ChatRequest, EmbeddingsRequest
from tests.unit.shared.events import json_values

HELLO: dict[str, Any] = {"model": "google/gemini-3-flash", "messages": [{"role": "user", "content": "Hi"}]}
text = st.text(max_size=12)
objects = st.dictionaries(text, json_values, max_size=3)
cache = st.fixed_dictionaries({"type": st.just("ephemeral")}, optional={"ttl": st.sampled_from(["5m", "1h"])})
text_part = st.fixed_dictionaries({"type": st.just("text"), "text": text}, optional={"cache_control": cache})
url = st.sampled_from(["https://example.com/a.png", "data:image/png;base64,AAAA"]).map(lambda one: {"url": one})
image_part = st.fixed_dictionaries({"type": st.just("image_url"), "image_url": url})
function_call = st.fixed_dictionaries(
    {"name": text, "arguments": text}, optional={"parsed_arguments": st.none() | objects}
)
tool_call = st.fixed_dictionaries(
    {"id": text, "type": st.just("function"), "function": function_call},
    optional={"index": st.integers(0, 9), "extra_content": st.none() | objects},
)


def content(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return text | st.lists(part, min_size=1, max_size=3)


messages = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["system", "developer"]), "content": content(text_part)}, optional={"name": text}
        ),
        st.fixed_dictionaries({"role": st.just("user"), "content": content(text_part | image_part)}),
        st.fixed_dictionaries(
            {"role": st.just("assistant"), "content": st.none() | content(text_part)},
            optional={
                "tool_calls": st.none() | st.lists(tool_call, max_size=2), "refusal": st.none() | text,
                "reasoning": st.none() | text, "reasoning_details": st.lists(objects, max_size=2), "audio": st.none(),
                "annotations": st.none() | st.just([]), "function_call": st.none(), "parsed": st.none() | objects,
            },
        ),
        st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": text, "content": content(text_part)}),
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip


def within(low: float, high: float) -> st.SearchStrategy[float | int]:
    return st.floats(low, high) | st.integers(math.ceil(low), math.floor(high))


efforts = st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"])
tool = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.just("f")}, optional={"parameters": objects}),
    }
)
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "stream": st.booleans(), "stream_options": objects, "temperature": within(0, 2), "top_p": within(0, 1),
    "top_k": st.integers(1, 100), "presence_penalty": within(-2, 2), "frequency_penalty": within(-2, 2),
    "seed": st.integers(-(2**63), 2**63 - 1), "max_tokens": st.integers(1, 10**6),
    "stop": text | st.lists(text, max_size=4),
    "tools": st.lists(tool, max_size=2), "tool_choice": st.sampled_from(["none", "auto", "required"]),
    "parallel_tool_calls": st.booleans(), "reasoning_effort": efforts, "include_reasoning": st.booleans(),
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
    "service_tier": st.sampled_from(["standard", "auto", "default", "flex"]), "user": text, "n": st.just(1),
    "logit_bias": st.dictionaries(text, within(-100, 100)), "logprobs": st.booleans(),
    "top_logprobs": st.integers(0, 20),
    "metadata": objects, "store": st.booleans(), "verbosity": st.sampled_from(["low", "medium", "high"]),
    "top_a": within(0, 1), "min_p": within(0, 1), "repetition_penalty": within(0, 2), "models": st.lists(text),
    "route": text, "provider": objects, "transforms": st.lists(text), "plugins": st.lists(objects, max_size=2),
    "usage": objects, "prompt_cache_key": text, "safety_identifier": text,
}  # fmt: skip
members = {name: st.none() | values for name, values in OPTIONAL.items()}
requests = st.fixed_dictionaries({"model": text, "messages": messages}, optional=members)


def dumps(body: Any) -> bytes:
    return json.dumps(body).encode()


@given(requests)
def test_every_request_that_the_documentation_allows_is_understood(body: dict[str, Any]) -> None:
    request = parse(ChatRequest, dumps(body))
    assert request.model == body["model"]
    assert [message.role for message in request.messages] == [message["role"] for message in body["messages"]]
    for name in OPTIONAL.keys() & {"temperature", "seed", "max_tokens", "user", "stop"}:
        assert getattr(request, name) == body.get(name)


@given(requests, st.text(min_size=1).filter(lambda name: name not in ChatRequest.model_fields), json_values)
def test_an_unknown_member_is_refused_by_its_name(body: dict[str, Any], name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(ChatRequest, dumps(body | {name: value}))
    assert refused.value.message == f'unknown member "{name.lstrip(".")}"'
    assert refused.value.code is None


@given(requests, st.sampled_from(sorted(OPTIONAL)), json_values)
def test_whatever_stands_in_a_member_it_is_understood_or_refused_by_that_members_name(
    body: dict[str, Any], name: str, value: Any
) -> None:
    try:
        parse(ChatRequest, dumps(body | {name: value}))
    except InvalidRequest as refused:
        assert refused.param is None or refused.param.startswith(name) or "differ" in refused.message  # noqa: PT017


@given(st.binary() | json_values.map(dumps) | st.lists(json_values).map(lambda one: dumps({**HELLO, "messages": one})))
def test_any_other_body_is_a_400(body: bytes) -> None:
    for kind in (ChatRequest, EmbeddingsRequest):
        with pytest.raises(InvalidRequest) as refused:
            parse(kind, body)
        assert refused.value.status == 400


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"user": "x" * 513}, "user"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}
                ]
            },
            "messages[0].content[0].image_url.url",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_with_its_path(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(ChatRequest, dumps(HELLO | change))
    assert refused.value.param == param
    assert refused.value.message.strip()


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 5, "max_completion_tokens": 6},
        {"reasoning_effort": "low", "reasoning": {"effort": "high"}},
    ],
    ids=str,
)
def test_two_names_of_one_thing_must_agree(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="differ: give one of them"):
        parse(ChatRequest, dumps(HELLO | change))


@given(st.integers(1, 10**6), efforts)
def test_two_names_of_one_thing_may_agree(limit: int, effort: str) -> None:
    both = {
        "max_tokens": limit,
        "max_completion_tokens": limit,
        "reasoning_effort": effort,
        "reasoning": {"effort": effort},
    }
    request = parse(ChatRequest, dumps(HELLO | both))
    assert request.output_limit == limit
    assert request.thinking is not None
    assert request.thinking.effort == effort


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, None),
        ({"include_reasoning": False}, None),
        ({"reasoning": {"enabled": False, "effort": "high"}}, None),
        ({"reasoning": {}}, ("medium", None, True)),
        ({"include_reasoning": True}, ("medium", None, True)),
        ({"reasoning_effort": "xhigh"}, ("xhigh", None, True)),
        ({"reasoning_effort": "low", "include_reasoning": False}, ("low", None, False)),
        ({"reasoning": {"max_tokens": 9, "exclude": True}}, ("medium", 9, False)),
    ],
    ids=str,
)
def test_reasoning_is_off_unless_asked_for_under_one_of_its_names(asked: dict[str, Any], expected: Any) -> None:
    thinking = parse(ChatRequest, dumps(HELLO | asked)).thinking
    assert (thinking and (thinking.effort, thinking.max_tokens, thinking.shown)) == expected


called = st.fixed_dictionaries({"name": text, "arguments": st.just("{}")})
answers = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | text},
    optional={
        "refusal": st.none() | text, "reasoning": text, "reasoning_details": st.lists(objects, max_size=2),
        "tool_calls": st.lists(
            st.fixed_dictionaries(
                {"id": text, "type": st.just("function"), "function": called},
                optional={"extra_content": st.just({"google": {"thought_signature": "c2ln"}})},
            ),
            min_size=1, max_size=2,
        ),
    },
)  # fmt: skip


@given(answers, st.booleans(), st.booleans())
def test_what_the_openai_sdk_dumps_of_its_own_answers_is_accepted_back(
    message: dict[str, Any], parsed: bool, sparse: bool
) -> None:
    body = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }  # fmt: skip
    completion: Any = ChatCompletion.model_validate(body)
    if parsed:
        completion = parse_chat_completion(response_format=omit, input_tools=omit, chat_completion=completion)
    dumped = completion.choices[0].message.model_dump(exclude_none=sparse)
    request = parse(ChatRequest, dumps(HELLO | {"messages": [*HELLO["messages"], dumped]}))
    replayed: Any = request.messages[1]
    assert replayed.content == message["content"]
    assert [call.id for call in replayed.tool_calls or []] == [call["id"] for call in message.get("tool_calls", [])]
    for call, sent in zip(replayed.tool_calls or [], message.get("tool_calls", []), strict=True):
        assert call.extra_content == sent.get("extra_content")


@pytest.mark.parametrize("wrong", ["", [], [""], [1, 2], [[1]], ["a"] * 2049, None, {}], ids=lambda one: str(one)[:12])
def test_embeddings_take_texts_and_nothing_else(wrong: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse(EmbeddingsRequest, dumps({"model": "m", "input": wrong}))


@given(st.text(min_size=1) | st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_embeddings_take_one_text_as_a_list_of_one(given_: Any) -> None:
    inputs = parse(EmbeddingsRequest, dumps({"model": "m", "input": given_, "dimensions": 768})).inputs
    assert inputs == ([given_] if isinstance(given_, str) else given_)
