"""What a client does wrong is told to it in one envelope, gate by gate in the promised order, and is never a 500."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from shared.ids import request_id_of
from tests.e2e.raw import Answer, Headers, authorized, post, send
from tests.e2e.stacks import Stack

CHAT, EMBEDDINGS, MODELS = "/v1/chat/completions", "/v1/embeddings", "/v1/models"
CLAUDE, GEMINI, VECTORS = "anthropic/claude-haiku-4-5", "google/gemini-2.5-pro", "google/text-embedding-004"
USER: dict[str, Any] = {"role": "user", "content": "Hello"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}
DEEP = 100_000  # brackets: far past any parser's stack
TOO_LARGE = b'{"model": "' + b"x" * (40 * 1024 * 1024) + b'"}'


def chat(**members: Any) -> dict[str, Any]:
    return {"model": CLAUDE, "messages": [USER]} | members


def embed(**members: Any) -> dict[str, Any]:
    return {"model": VECTORS, "input": "Hello"} | members


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


@pytest.fixture(autouse=True)
def _nothing_fails_inside(stack: Stack) -> Iterator[None]:
    before = failures(stack)
    yield
    assert failures(stack) == before, "a service logged request_failed"


def failures(stack: Stack) -> dict[str, int]:
    return {name: service.log().count("request_failed") for name, service in stack.services.items()}


def envelope(answer: Answer, status: int, code: str | None, type: str = "invalid_request_error") -> dict[str, Any]:
    """The error of a refusal, which has to be well formed in every respect; `message` and `param` are the test's."""
    assert answer.status == status, answer.body[:500]
    assert answer.headers["content-type"].startswith("application/json")
    assert request_id_of(answer.headers["x-request-id"])
    assert answer.json.keys() == {"error"}
    error: dict[str, Any] = answer.json["error"]
    assert (error["type"], error["code"]) == (type, code)
    assert error.keys() - {"param"} == {"message", "type", "code"}
    return error


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
    ("messages[1].role", chat(messages=[USER, {"role": "robot", "content": "Hello"}])),
    ("messages[0].content", chat(messages=[{"role": "user", "content": 5}])),
    ("messages[0].content", chat(messages=[{"role": "user", "content": []}])),
    ("messages[0].content[0].type", chat(messages=[{"role": "user", "content": [{"type": "video"}]}])),
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
        missing = envelope(post(stack, path, without(body, name)), 400, None)
        assert (missing["message"], missing["param"]) == (f'missing member "{name}"', name)


@pytest.mark.parametrize(
    ("message", "members"),
    [
        ("max_tokens and max_completion_tokens differ: give one of them", {"max_tokens": 5, "max_completion_tokens": 6}),
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


@pytest.mark.parametrize("chunked", [False, True], ids=["its length declared", "in chunks"])
def test_a_body_of_40_mib_is_too_large(stack: Stack, chunked: bool) -> None:
    answer = send(stack, "POST", CHAT, authorized(stack.key), TOO_LARGE, chunked=chunked)
    envelope(answer, 413, "request_too_large")


HUGE = 10**30  # more than 64 bits, so more than most JSON writers write
SCHEMA = {"type": "integer", "maximum": HUGE}


@pytest.mark.parametrize("model", [CLAUDE, GEMINI])
@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"seed": HUGE}, id="seed"),
        pytest.param({"seed": -HUGE}, id="negative seed"),
        pytest.param({"top_k": HUGE}, id="top_k"),
        pytest.param({"max_tokens": HUGE}, id="max_tokens"),
        pytest.param({"reasoning": {"max_tokens": HUGE}}, id="reasoning"),
        pytest.param({"metadata": {"a": HUGE}, "logit_bias": {"1": float("inf")}}, id="dropped members"),
        pytest.param(
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]}, id="tool's schema"
        ),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}, id="schema"
        ),
        pytest.param(
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": 5, "tools": 5}}},
            id="allowed tools that are none",
        ),
        pytest.param(
            {"messages": [USER, {"role": "assistant", "tool_calls": [CALL | {"extra_content": {"google": 5}}]}]},
            id="a signature that is none",
        ),
        pytest.param({"messages": [USER | {"content": "a\0b"}], "user": "a\0b"}, id="NUL"),
    ],
)
def test_a_request_however_odd_is_answered_or_refused_but_breaks_nothing(
    stack: Stack, model: str, members: dict[str, Any]
) -> None:
    answer = post(stack, CHAT, chat(model=model, **members) if "messages" not in members else {"model": model} | members)
    assert answer.status in {200, 400}, answer.body
    assert request_id_of(answer.headers["x-request-id"])


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param({"headers": [("Content-Encoding", "gzip")]}, id="not gzip"),
        pytest.param({"headers": [("Content-Encoding", "deflate")]}, id="not deflate"),
    ],
)
def test_a_body_that_is_not_encoded_as_it_says_is_refused(stack: Stack, encoded: dict[str, Any]) -> None:
    headers = [*authorized(stack.key), *encoded["headers"]]
    envelope(send(stack, "POST", CHAT, headers, json.dumps(chat()).encode()), 400, None)


@pytest.mark.parametrize(
    ("headers", "code", "message"),
    [
        pytest.param([], "missing_auth", "missing bearer token", id="none"),
        pytest.param([("Authorization", "")], "missing_auth", "missing bearer token", id="empty"),
        pytest.param([("Authorization", "Bearer")], "missing_auth", "missing bearer token", id="no key"),
        pytest.param([("Authorization", "Bearer a b")], "missing_auth", "missing bearer token", id="two words"),
        pytest.param([("Authorization", "Basic YTpi")], "missing_auth", "missing bearer token", id="basic"),
        pytest.param(authorized("sk-optk-wrong"), "invalid_key", "invalid api key", id="unknown"),
        pytest.param(authorized("k" * 7000), "invalid_key", "invalid api key", id="very long"),
        pytest.param([("Authorization", b"Bearer \xff\xfe")], "invalid_key", "invalid api key", id="not text"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT),
        ("POST", EMBEDDINGS),
        ("GET", MODELS),
        ("GET", f"{MODELS}/{CLAUDE}"),
        ("GET", "/v1/generations/chatcmpl-01a205e6-1df4-7743-bfc1-85fc5a049309"),
        ("GET", "/v1/credits"),
        ("GET", "/v1/key"),
    ],
)
def test_every_route_wants_a_good_key(
    stack: Stack, method: str, path: str, headers: Headers, code: str, message: str
) -> None:
    error = envelope(send(stack, method, path, headers), 401, code, "authentication_error")
    assert error["message"] == message


def test_a_second_key_in_the_same_request_does_not_help_a_wrong_first_one(stack: Stack) -> None:
    answer = send(stack, "GET", MODELS, [*authorized("sk-optk-wrong"), *authorized(stack.key)])
    envelope(answer, 401, "invalid_key", "authentication_error")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/completions", "/v1/models/", "//v1/models", "/v1/%00", "/%FF"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_route_is_a_404(stack: Stack, method: str, path: str) -> None:
    envelope(send(stack, method, path, authorized(stack.key)), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", CHAT, "POST"), ("PUT", EMBEDDINGS, "POST"), ("DELETE", MODELS, "GET"), ("POST", "/v1/credits", "GET")],
)
def test_a_wrong_method_is_a_405_that_names_the_right_one(stack: Stack, method: str, path: str, allowed: str) -> None:
    answer = send(stack, method, path, authorized(stack.key))
    error = envelope(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed
    assert error["message"] == f"{method} is not allowed on {path}: use {allowed}"


@pytest.mark.parametrize("name", ["5", "chatcmpl-", "%00", "chatcmpl-01a205e6-1df4-7743-bfc1-85fc5a049309"])
def test_a_receipt_that_is_not_there_is_a_404(stack: Stack, name: str) -> None:
    envelope(send(stack, "GET", f"/v1/generations/{name}", authorized(stack.key)), 404, "not_found")


def test_the_gates_come_in_the_promised_order(stack: Stack) -> None:
    """One request with every fault that a body can have; each answer says which one to mend next."""
    envelope(post(stack, CHAT, TOO_LARGE, key="sk-optk-wrong"), 401, "invalid_key", "authentication_error")
    envelope(post(stack, CHAT, TOO_LARGE), 413, "request_too_large")
    faulty = chat(model="openai/gpt-4o", n=2, temprature=1)
    envelope(post(stack, CHAT, json.dumps(faulty).encode() + b"}"), 400, None)
    envelope(post(stack, CHAT, faulty), 400, None)
    envelope(post(stack, CHAT, without(faulty, "temprature")), 400, "model_not_found")
    envelope(post(stack, CHAT, chat(n=2)), 400, "unsupported_parameter")
    assert post(stack, CHAT, chat()).status == 200
