"""What is wrong with a request's body is told in one envelope that names the member at fault, and is never a 500."""

from typing import Any

import pytest

from shared.ids import request_id_of
from tests.e2e.raw import CHAT, EMBEDDINGS, GEMINI, USER, VECTORS, chat, embed, envelope, post
from tests.e2e.stacks import Stack

pytestmark = pytest.mark.usefixtures("_nothing_fails_inside")

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}
DEEP = 100_000  # brackets: far past any parser's stack


@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"model=x", id="a form"),
        pytest.param(b'{"model": "x"', id="cut short"),
        pytest.param(b'{"model": "x"} {}', id="two documents"),
        pytest.param(b'{"model": "\xff"}', id="invalid UTF-8"),
        pytest.param(rb'{"model": "\ud800"}', id="half a surrogate pair"),
        pytest.param(b"[" * DEEP, id="open brackets"),
        pytest.param(b'{"messages": ' + b"[" * DEEP + b"]" * DEEP + b"}", id="nested in a member"),
    ],
)
def test_what_is_not_json_is_called_malformed(stack: Stack, path: str, body: bytes) -> None:
    error = envelope(post(stack, path, body), 400, None)
    assert error["message"].startswith("malformed JSON: ")
    assert "param" not in error


@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS])
@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"text"', b'[{"model": "x"}]'])
def test_json_that_is_no_object_is_refused(stack: Stack, path: str, body: bytes) -> None:
    assert envelope(post(stack, path, body), 400, None)["message"] == "the body must be a JSON object"


CHAT_FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("model", chat(model=5)),
    ("model", chat(model=None)),
    ("messages", chat(messages=[])),
    ("messages", chat(messages="Hello")),
    ("messages[0]", chat(messages=["Hello"])),
    ("messages[1]", chat(messages=[USER, {"role": "robot", "content": "Hello"}])),
    ("messages[0].content", chat(messages=[{"role": "user", "content": 5}])),
    ("messages[0].content", chat(messages=[{"role": "user", "content": []}])),
    ("messages[0].content[0]", chat(messages=[{"role": "user", "content": [{"type": "video"}]}])),
    ("messages[0].content[0].text", chat(messages=[{"role": "user", "content": [{"type": "text", "text": 5}]}])),
    ("stream", chat(stream="yes")),
    *(("temperature", chat(temperature=value)) for value in (-0.1, 2.1, "1", float("nan"), float("inf"))),
    *(("top_p", chat(top_p=value)) for value in (-0.1, 1.1)),
    *(("top_k", chat(top_k=value)) for value in (0, 1.5)),
    *(("presence_penalty", chat(presence_penalty=value)) for value in (-2.1, 2.1)),
    *(("frequency_penalty", chat(frequency_penalty=value)) for value in (-2.1, 2.1)),
    *(("seed", chat(seed=value)) for value in (1.5, "7")),
    *(("max_tokens", chat(max_tokens=value)) for value in (0, -1, 1.5, "5", True)),
    ("max_completion_tokens", chat(max_completion_tokens=0)),
    ("stop", chat(stop=["a", "b", "c", "d", "e"])),
    ("stop[0]", chat(stop=[1])),
    ("tools", chat(model=GEMINI, tools="f")),
    ("tools[0].function.name", chat(model=GEMINI, tools=[{"type": "function", "function": {"name": ""}}])),
    ("response_format.type", chat(response_format={"type": "xml"})),
    ("reasoning_effort", chat(reasoning_effort="huge")),
    ("reasoning.max_tokens", chat(reasoning={"max_tokens": 0})),
    ("service_tier", chat(service_tier="gold")),
    ("user", chat(user="x" * 513)),
    ("top_logprobs", chat(top_logprobs=21)),
    ("top_a", chat(top_a=1.1)),
    ("min_p", chat(min_p=-0.1)),
    ("repetition_penalty", chat(repetition_penalty=2.1)),
]
EMBEDDINGS_FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("input", embed(input="")),
    ("input", embed(input=[])),
    ("input", embed(input=None)),
    ("input[1]", embed(input=["Hello", ""])),
    ("input[0]", embed(input=[1, 2, 3])),
    ("input[0]", embed(input=[[1, 2], [3]])),
    ("input", embed(input=["Hello"] * 2049)),
    *(("dimensions", embed(dimensions=value)) for value in (0, 769, "64")),
    ("encoding_format", embed(encoding_format="hex")),
    ("task_type", embed(task_type="POETRY")),
    ("user", embed(user="x" * 513)),
]


@pytest.mark.parametrize(
    ("path", "param", "body"),
    [(CHAT, *fault) for fault in CHAT_FAULTS] + [(EMBEDDINGS, *fault) for fault in EMBEDDINGS_FAULTS],
)
def test_a_member_that_is_wrong_is_named(stack: Stack, path: str, param: str, body: dict[str, Any]) -> None:
    error = envelope(post(stack, path, body), 400, None)
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (EMBEDDINGS, embed())])
def test_a_member_that_is_unknown_or_missing_is_named(stack: Stack, path: str, body: dict[str, Any]) -> None:
    unknown = envelope(post(stack, path, body | {"temprature": 1}), 400, None)
    assert (unknown["message"], unknown["param"]) == ('unknown member "temprature"', "temprature")
    for name in body:
        missing = envelope(post(stack, path, {key: value for key, value in body.items() if key != name}), 400, None)
        assert (missing["message"], missing["param"]) == (f'missing member "{name}"', name)


@pytest.mark.parametrize(
    ("message", "members"),
    [
        (
            "max_tokens and max_completion_tokens differ: give one of them",
            {"max_tokens": 5, "max_completion_tokens": 6},
        ),
        (
            "reasoning_effort and reasoning.effort differ: give one of them",
            {"reasoning_effort": "low", "reasoning": {"effort": "high"}},
        ),
    ],
)
def test_two_names_of_one_member_have_to_agree(stack: Stack, message: str, members: dict[str, Any]) -> None:
    assert envelope(post(stack, CHAT, chat(**members)), 400, None)["message"] == message


@pytest.mark.parametrize(
    ("path", "body", "code", "message"),
    [
        (CHAT, chat(model="openai/gpt-4o"), "model_not_found", 'model "openai/gpt-4o" not found'),
        (CHAT, chat(model=""), "model_not_found", 'model "" not found'),
        (EMBEDDINGS, embed(model="openai/ada"), "model_not_found", 'model "openai/ada" not found'),
        (CHAT, chat(model=VECTORS), "chat_unsupported", f'model "{VECTORS}" does not support chat completions'),
        (EMBEDDINGS, embed(model=GEMINI), "embeddings_unsupported", f'model "{GEMINI}" does not support embeddings'),
    ],
)
def test_a_model_that_cannot_do_it_is_refused(
    stack: Stack, path: str, body: dict[str, Any], code: str, message: str
) -> None:
    error = envelope(post(stack, path, body), 400, code)
    assert (error["message"], error["param"]) == (message, "model")


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("tools", chat(tools=[TOOL])),
        ("tools", chat(tool_choice="required")),
        ("tools", chat(tool_choice=TOOL)),
        ("tools", chat(functions=[{"name": "f"}])),
        ("tools", chat(messages=[USER, {"role": "tool", "tool_call_id": "call_1", "content": "5"}])),
        ("tools", chat(messages=[USER, {"role": "assistant", "tool_calls": [CALL]}])),
        ("n", chat(n=2)),
        ("n", chat(n=0, model=GEMINI)),
        ("modalities", chat(modalities=["text", "audio"])),
        ("modalities", chat(audio={"voice": "alloy", "format": "wav"}, model=GEMINI)),
    ],
)
def test_a_parameter_that_would_change_the_answer_is_not_dropped(
    stack: Stack, param: str, body: dict[str, Any]
) -> None:
    assert envelope(post(stack, CHAT, body), 400, "unsupported_parameter")["param"] == param


HUGE = 10**30  # more than the 64 bits that most JSON writers write
SCHEMA = {"type": "integer", "maximum": HUGE}
HUGE_TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
HUGE_FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}


def unsigned(signature: Any) -> dict[str, Any]:
    """A replayed tool call whose signature has the wrong shape."""
    call = CALL | {"extra_content": {"google": signature}}
    answered = {"role": "tool", "tool_call_id": "call_1", "content": "5"}
    return chat(model=GEMINI, messages=[USER, {"role": "assistant", "tool_calls": [call]}, answered])


def allowing(**allowed: Any) -> dict[str, Any]:
    """A choice of allowed tools that has the wrong shape."""
    return chat(model=GEMINI, tools=[TOOL], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(chat(seed=HUGE), id="a seed that is dropped"),
        pytest.param(chat(max_tokens=HUGE), id="more tokens than there are"),
        pytest.param(chat(reasoning={"max_tokens": HUGE}), id="more thought than there is"),
        pytest.param(chat(metadata={"a": HUGE}, logit_bias={"1": float("inf")}), id="dropped members"),
        pytest.param(chat(messages=[USER | {"content": "a\0b"}], user="a\0b"), id="NUL"),
        pytest.param(unsigned(5), id="a signature in no object"),
        pytest.param(unsigned({"thought_signature": [1]}), id="a signature that is no text"),
        pytest.param(allowing(), id="allowed tools left out"),
        pytest.param(allowing(tools=5), id="allowed tools that are no list"),
        pytest.param(allowing(tools=[5]), id="an allowed tool that is no object"),
        pytest.param(allowing(tools=[TOOL], mode=[]), id="a mode that is no text"),
    ],
)
def test_what_is_odd_is_answered_or_refused_but_breaks_nothing(stack: Stack, body: dict[str, Any]) -> None:
    answer = post(stack, CHAT, body)
    assert answer.status in {200, 400}, answer.body
    assert request_id_of(answer.headers["x-request-id"])


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(chat(top_k=HUGE), id="top_k"),
        pytest.param(chat(model=GEMINI, seed=HUGE), id="seed"),
        pytest.param(chat(model=GEMINI, tools=[HUGE_TOOL]), id="a tool's schema"),
        pytest.param(chat(model=GEMINI, response_format=HUGE_FORMAT), id="an answer's schema"),
    ],
)
def test_a_number_too_large_to_pass_on_is_refused(stack: Stack, body: dict[str, Any]) -> None:
    envelope(post(stack, CHAT, body), 400, None)


def test_2048_inputs_are_embedded_in_their_order(stack: Stack) -> None:
    answer = post(stack, EMBEDDINGS, embed(input=[f"text {number}" for number in range(2048)], dimensions=1))
    assert answer.status == 200, answer.body[:500]
    assert [item["index"] for item in answer.json["data"]] == list(range(2048))
