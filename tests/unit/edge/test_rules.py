"""The gates, in the order in which a client meets them: a request that fails several hears of the first."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from services.edge import rules
from services.edge.accounts import Standing
from shared.bodies import parse
from shared.errors import (
    ApiError,
    ChatUnsupported,
    EmbeddingsUnsupported,
    ExpiredKey,
    UnsupportedParameter,
)
from shared.openai import MAX_BODY_BYTES, ChatRequest
from tests.unit.edge.running import HELLO, KEY, MODEL, digest, edge, fine, standing
from tests.unit.workers.running import CATALOG

SPENT: dict[str, Any] = {"balance_pico": "0", "spend_limit_pico": "5", "window_spend_pico": "5"}
PAST = "2020-01-01T00:00:00.000000Z"
PRESENT = datetime(2026, 1, 31, 12, tzinfo=UTC)
STANDING = Standing.of(standing())
pico = st.integers(-(10**20), 10**20)

LADDER: list[tuple[dict[str, Any] | None, Any, tuple[int, str | None]]] = [
    (None, b"{", (401, "invalid_key")),
    ({"revoked_at": PAST, "expires_at": PAST}, b"{", (401, "invalid_key")),
    ({"expires_at": PAST}, b"{", (401, "expired_key")),
    ({}, b'{"model": "openai/gpt-4o", "n": 2', (400, None)),
    ({}, HELLO | {"model": "openai/gpt-4o", "n": 2, "surprise": 1}, (400, None)),
    ({}, HELLO | {"model": "openai/gpt-4o", "n": 2}, (400, "model_not_found")),
    ({}, HELLO | {"n": 2}, (400, "unsupported_parameter")),
    ({}, HELLO | {"model": "google/text-embedding-004", "n": 2}, (400, "chat_unsupported")),
    ({}, HELLO, (402, "insufficient_credit")),
    ({"balance_pico": "1"}, HELLO, (429, "spend_limit_exceeded")),
    ({"balance_pico": "1", "window_spend_pico": "4"}, HELLO, (200, None)),
]


@pytest.mark.parametrize(
    ("account", "body", "told"), LADDER, ids=lambda value: str(value) if isinstance(value, tuple) else ""
)
async def test_a_request_that_fails_several_gates_hears_of_the_first(
    account: dict[str, Any] | None, body: Any, told: tuple[int, str | None]
) -> None:
    reached: list[web.Request] = []

    async def worker(request: web.Request) -> web.Response:
        reached.append(request)
        return await fine(request)

    async with edge(worker) as running:
        running.bank.known = {} if account is None else {digest(KEY): standing(**(SPENT | account))}
        answer = await running.ask(body)
    assert (answer.status, None if answer.status == 200 else answer.code) == told
    assert bool(reached) == (told[0] == 200)
    assert not running.books.records, "what is refused here was never billed, and is not on record"


@pytest.mark.parametrize(
    "authorization",
    [b"", b"Authorization: Bearer\r\n", b"Authorization: Basic a\r\n", b"Authorization: Bearer a b\r\n"],
)
async def test_no_key_is_heard_of_before_anything_about_the_body(authorization: bytes) -> None:
    async with edge(fine) as running:
        answer = await raw(running.url, authorization, b"{")
        assert not running.bank.asked
    assert b" 401 " in answer.split(b"\r\n")[0]
    assert b'"code":"missing_auth"' in answer


async def test_a_key_of_other_bytes_than_ascii_is_a_401() -> None:
    async with edge(fine) as running:
        answer = await raw(running.url, b"Authorization: Bearer k\xff\xfe\r\n", b"{}")
    assert b" 401 " in answer.split(b"\r\n")[0]


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent() -> None:
    async with edge(fine) as running:
        running.bank.known = {digest(KEY): standing(**SPENT)}
        head = f"Authorization: Bearer {KEY}\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n"
        answer = await raw(running.url, head.encode(), None)
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b'"code":"request_too_large"' in answer


async def raw(url: str, headers: bytes, body: bytes | None) -> bytes:
    """The answer to a request written by hand; without a body, only its head is sent."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    path = b"POST /v1/chat/completions HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n"
    writer.write(path + headers + length + b"\r\n" + (body or b""))
    try:
        return await asyncio.wait_for(reader.readuntil(b"}}"), timeout=10)  # the end of every error
    finally:
        writer.close()
        await writer.wait_closed()


async def test_embeddings_meet_the_same_gates() -> None:
    body = {"model": "google/text-embedding-004", "input": "a"}
    async with edge(fine) as running:
        assert (await running.ask(body, "/v1/embeddings")).status == 200
        assert (await running.ask(body | {"model": MODEL}, "/v1/embeddings")).code == "embeddings_unsupported"
        assert (await running.ask(body | {"input": [[1, 2]]}, "/v1/embeddings")).status == 400
        assert (await running.ask(body, "/v1/embeddings", key=None)).code == "missing_auth"
    async with edge(fine) as running:
        running.bank.known = {digest(KEY): standing(**SPENT)}
        assert (await running.ask(body, "/v1/embeddings")).code == "insufficient_credit"


def refusal(gate: Any, *arguments: Any) -> type[ApiError] | None:
    try:
        gate(*arguments)
    except ApiError as error:
        return type(error)
    return None


@given(st.integers(-(10**9), 10**9))
def test_a_key_expires_at_its_very_second(seconds: int) -> None:
    account = replace(STANDING, expires_at=PRESENT)
    expected = ExpiredKey if seconds >= 0 else None
    assert refusal(rules.check_key, account, PRESENT + timedelta(seconds=seconds)) is expected


TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "x"}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}}


@pytest.mark.parametrize(
    "members",
    [
        {"tools": [TOOL]},
        {"tool_choice": "required"},
        {"tool_choice": TOOL},
        {"tool_choice": ALLOWED},
        {"functions": [{"name": "f"}]},
        {"function_call": "auto"},
        {"messages": [*HELLO["messages"], CALL]},
        {"messages": [*HELLO["messages"], RESULT]},
    ],
    ids=str,
)
def test_tools_are_refused_where_a_model_has_none_and_pass_where_it_has(members: dict[str, Any]) -> None:
    request = parse(ChatRequest, dumps(HELLO | members))
    assert refusal(rules.check_chat, request, CATALOG[MODEL]) is UnsupportedParameter
    assert refusal(rules.check_chat, request, CATALOG["google/gemini-3-flash"]) is None


@pytest.mark.parametrize(
    "members",
    [
        {"tools": []}, {"tools": None}, {"tool_choice": "none"}, {"tool_choice": "auto"}, {"n": 1}, {"n": None},
        {"modalities": ["text"]}, {"messages": [{"role": "assistant", "content": "Hi", "tool_calls": None}]},
    ],
    ids=str,
)  # fmt: skip
def test_nothing_that_means_no_tools_is_taken_for_tools(members: dict[str, Any]) -> None:
    assert refusal(rules.check_chat, parse(ChatRequest, dumps(HELLO | members)), CATALOG[MODEL]) is None


@pytest.mark.parametrize("members", [{"n": 0}, {"n": 2}, {"modalities": ["text", "audio"]}, {"audio": {"voice": "x"}}])
def test_what_no_provider_could_give_is_refused_by_name(members: dict[str, Any]) -> None:
    request = parse(ChatRequest, dumps(HELLO | members))
    with pytest.raises(UnsupportedParameter) as refused:
        rules.check_chat(request, CATALOG[MODEL])
    assert refused.value.param in {"n", "modalities"}


def test_each_model_serves_one_endpoint_only() -> None:
    chat = parse(ChatRequest, dumps(HELLO))
    for model in CATALOG:
        embeds = "embeddings" in model.capabilities
        assert refusal(rules.check_chat, chat, model) is (ChatUnsupported if embeds else None)
        assert refusal(rules.check_embeddings, model) is (None if embeds else EmbeddingsUnsupported)


def dumps(body: Any) -> bytes:
    return json.dumps(body).encode()
