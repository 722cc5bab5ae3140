"""Who may call what, and in which order the gates come: keys, sizes, routes, methods, credit and limits."""

import json

import pytest

from tests.e2e.raw import (
    CHAT,
    CLAUDE,
    EMBEDDINGS,
    MODELS,
    Headers,
    authorized,
    chat,
    embed,
    envelope,
    post,
    send,
)
from tests.e2e.stacks import Stack, until
from tests.e2e.terminal import admin, opentoken

pytestmark = pytest.mark.usefixtures("_nothing_fails_inside")

TOO_LARGE = b'{"model": "' + b"x" * (40 * 1024 * 1024) + b'"}'


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
        pytest.param([("Authorization", b"Bearer \xff")], "missing_auth", "missing bearer token", id="not ASCII"),
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


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/completions", "/v1/models/", "//v1/models", "/v1/%00", "/%FF"]
)
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


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_is_not_encoded_as_it_says_is_refused(stack: Stack, encoding: str) -> None:
    headers = [*authorized(stack.key), ("Content-Encoding", encoding)]
    envelope(send(stack, "POST", CHAT, headers, json.dumps(chat()).encode()), 400, None)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        pytest.param("GET", [("X-Long", "x" * 20_000)], id="a very long header"),
        pytest.param("GET", [("Content-Encoding", "br")], id="an encoding that is not there"),
        pytest.param("GET", [("Expect", "the unexpected")], id="an unknown expectation"),
        pytest.param("BREW", [], id="an unknown method"),
    ],
)
def test_http_that_makes_no_sense_is_refused_in_the_envelope(stack: Stack, method: str, headers: Headers) -> None:
    answer = send(stack, method, MODELS, [*authorized(stack.key), *headers])
    assert 400 <= answer.status < 500
    assert "x-request-id" in answer.headers
    assert answer.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("chunked", [False, True], ids=["its length declared", "in chunks"])
def test_a_body_of_40_mib_is_too_large(stack: Stack, chunked: bool) -> None:
    answer = send(stack, "POST", CHAT, authorized(stack.key), TOO_LARGE, chunked=chunked)
    envelope(answer, 413, "request_too_large")


def test_the_gates_come_in_the_promised_order(stack: Stack) -> None:
    """One request with every fault that a body can have; each answer says which one to mend next."""
    envelope(post(stack, CHAT, TOO_LARGE, key="sk-optk-wrong"), 401, "invalid_key", "authentication_error")
    envelope(post(stack, CHAT, TOO_LARGE), 413, "request_too_large")
    faulty = chat(model="openai/gpt-4o", n=2, temprature=1)
    envelope(post(stack, CHAT, json.dumps(faulty).encode() + b"}"), 400, None)
    envelope(post(stack, CHAT, faulty), 400, None)
    envelope(post(stack, CHAT, chat(model="openai/gpt-4o", n=2)), 400, "model_not_found")
    envelope(post(stack, CHAT, chat(n=2)), 400, "unsupported_parameter")
    assert post(stack, CHAT, chat()).status == 200


def test_a_workspace_spends_what_an_operator_gave_it_and_a_key_no_more_than_its_limit(stack: Stack) -> None:
    workspace = admin(stack, "workspace", "create", "Acme")["id"]
    key, idle = (limited(stack, workspace, limit_usd) for limit_usd in ("0.000001", "0"))
    refused_everywhere(stack, idle, 402, "insufficient_credit", "insufficient credit balance")
    envelope(post(stack, CHAT, chat(n=2), key=idle), 400, "unsupported_parameter")
    entry = admin(stack, "credit", "add", workspace, "0.5", "--reference", f"invoice-{workspace}")
    assert (entry["seq"], entry["balance_after_usd"], entry["contra"]) == (1, "0.5", "cash")
    until(lambda: post(stack, CHAT, chat(), key=idle).status == 429, "the credit is noticed")
    assert post(stack, CHAT, chat(), key=key).status == 200
    until(lambda: post(stack, CHAT, chat(), key=key).status == 429, "the limit is noticed")
    refused_everywhere(stack, key, 429, "spend_limit_exceeded", "api key spend limit exceeded")


def limited(stack: Stack, workspace: str, limit_usd: str) -> str:
    """A key with a limit."""
    return admin(stack, "key", "create", workspace, "limited", "--spend-limit-usd", limit_usd)["secret"]


def refused_everywhere(stack: Stack, key: str, status: int, code: str, message: str) -> None:
    """Chat and embeddings alike."""
    for path, body in ((CHAT, chat()), (EMBEDDINGS, embed())):
        error = envelope(post(stack, path, body, key=key), status, code)
        assert error == {"message": message, "type": "invalid_request_error", "code": code}


def test_a_key_that_an_operator_revokes_stops_working_and_one_that_expired_never_worked(stack: Stack) -> None:
    old = admin(stack, "key", "create", "demo", "old", "--expires-at", "2026-01-31T00:00:00Z")
    error = envelope(post(stack, CHAT, chat(), key=old["secret"]), 401, "expired_key", "authentication_error")
    assert error["message"] == "api key has expired"
    key = admin(stack, "key", "create", "demo", "mine")
    assert send(stack, "GET", "/v1/key", authorized(key["secret"])).json["key_id"] == key["key_id"]
    assert admin(stack, "key", "revoke", key["key_id"])["revoked_at"]
    until(lambda: send(stack, "GET", MODELS, authorized(key["secret"])).status == 401, "the key stops working")
    envelope(send(stack, "GET", MODELS, authorized(key["secret"])), 401, "invalid_key", "authentication_error")
    table = opentoken(stack, "admin", "key", "list", "demo").stdout
    assert old["key_id"] in table
    assert key["secret"] not in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["key", "create", "nobody", "mine"], 'opentoken: workspace "nobody" not found (HTTP 404)'),
        (["credit", "add", "demo", "1.0e3", "--reference", "r"], "decimal string of USD"),
    ],
)
def test_a_command_that_fails_says_why_in_one_line(stack: Stack, arguments: list[str], words: str) -> None:
    done = opentoken(stack, "admin", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert words in line
