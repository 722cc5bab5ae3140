"""The official SDKs as peers: given the same conversation they put the same body on the same path, field by field.

They differ in headers, where we mean to: the version 2023-06-01 and `x-api-key`. And what each golden's provider says,
the SDK's types read as we do.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from anthropic import AsyncAnthropic
from anthropic.types import Message
from google import genai
from google.genai import types
from pydantic import TypeAdapter

from services.workers.memory import BoundedMemory
from services.workers.provider import Call, Supplier
from shared import catalog
from shared.bodies import parse
from shared.openai import ChatRequest
from tests.golden.exchanges import Exchange
from tests.golden.pairs import ANTHROPIC, GOOGLE
from tests.golden.playing import PROVIDERS
from tests.golden.sdk_types import CHECKS
from tests.golden.test_pure import FOUND, WHOLE
from tests.unit.workers.running import provider_that

CATALOG = catalog.load()
ANSWERS: dict[str, Any] = {
    "anthropic": {
        "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": "end_turn",
        "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
    },
    "google": {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]},
}  # fmt: skip


class Stub:
    """A provider that keeps what it was asked."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.asked: list[tuple[str, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path_qs, await request.json()))
        data = json.dumps(ANSWERS[self._name])
        if "stream" in request.path or self.asked[-1][1].get("stream"):
            return web.Response(text=f"data: {data}\n\n", content_type="text/event-stream")
        return web.json_response(text=data)


@contextlib.asynccontextmanager
async def stub(name: str) -> AsyncIterator[tuple[Stub, str]]:
    asked = Stub(name)
    async with provider_that(asked.answer) as url:
        yield asked, url


def ours(request: dict[str, Any]) -> tuple[str, Any]:
    """The path and the body that our folder makes of a request."""
    chat = parse(ChatRequest, json.dumps(request).encode())
    model = CATALOG[chat.model]
    root = "http://x/v1beta" if model.provider == "google" else "http://x"
    call = Call(chat, model, Supplier("peer", root, {}), BoundedMemory(), "r", "w", 0)
    with pytest.raises(StopIteration) as end:
        next(PROVIDERS[model.provider].plan(call))
    url = urlsplit(end.value.value.url)
    return f"{url.path}?{url.query}".rstrip("?"), json.loads(end.value.value.body)


@pytest.mark.parametrize("case", ANTHROPIC)
async def test_the_anthropic_sdk_sends_the_same_body_to_the_same_path(case: str) -> None:
    request, arguments = ANTHROPIC[case]
    async with stub("anthropic") as (asked, url), AsyncAnthropic(api_key="k", base_url=url) as client:
        answer = await client.messages.create(**arguments)
        if request.get("stream"):
            await answer.close()
    assert asked.asked == [ours(request)]


@pytest.mark.parametrize("case", GOOGLE)
async def test_the_google_sdk_sends_the_same_body_to_the_same_path(case: str) -> None:
    request, arguments = GOOGLE[case]
    async with stub("google") as (asked, url):
        await asyncio.to_thread(ask_google, url, arguments, stream=bool(request.get("stream")))
    ((path, body),) = asked.asked
    assert (path, as_proto(body)) == (ours(request)[0], as_proto(ours(request)[1]))


def ask_google(url: str, arguments: dict[str, Any], *, stream: bool) -> None:
    options = types.HttpOptions(base_url=url, api_version="v1beta")
    with genai.Client(api_key="k", http_options=options) as client:
        if stream:
            list(client.models.generate_content_stream(**arguments))
        else:
            client.models.generate_content(**arguments)


def as_proto(body: dict[str, Any]) -> dict[str, Any]:
    """The body as proto JSON means it: snake_case and camelCase are the same, and the SDK mixes them; a system
    instruction has no role that matters.
    """
    config = types.GenerationConfig.model_validate(body.get("generationConfig", {}))
    system = types.Content.model_validate(body.get("systemInstruction", {}))
    tools = TypeAdapter(list[types.Tool]).validate_python(body.get("tools", []))
    return {
        **body,
        "contents": TypeAdapter(list[types.Content]).validate_python(body["contents"]),
        "generationConfig": config,
        "systemInstruction": system.parts,
        "tools": tools,
    }


@pytest.mark.parametrize("exchange", [pytest.param(one, id=one.name) for one in FOUND if one.request.get("messages")])
def test_every_golden_body_is_one_that_the_sdks_types_accept(exchange: Exchange) -> None:
    for call in exchange.upstream:
        if not call["url"].endswith("/cachedContents"):
            CHECKS[exchange.path.parent.name](call["request"])


@pytest.mark.parametrize("exchange", [pytest.param(p.values[0], id=p.id) for p in WHOLE])
def test_the_sdks_types_read_each_golden_answer_as_we_do(exchange: Exchange) -> None:
    body = exchange.upstream[-1]["response"]["body"]
    if "choices" not in exchange.answer["body"]:
        return
    content = exchange.answer["body"]["choices"][0]["message"]["content"] or ""
    assert READ[exchange.path.parent.name](body) == content


def read_by_anthropic(body: dict[str, Any]) -> str:
    return "".join(block.text for block in Message.model_validate(body).content if block.type == "text")


def read_by_google(body: dict[str, Any]) -> str:
    response = types.GenerateContentResponse.model_validate(body)
    candidates = response.candidates or [types.Candidate()]
    content = candidates[0].content or types.Content()
    return "".join(part.text for part in content.parts or [] if part.text and not part.thought)


READ = {"anthropic": read_by_anthropic, "google": read_by_google}
