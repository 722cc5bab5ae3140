"""A peer that speaks both wires to a simulator, with nothing between it and the bytes; and what it says."""

import io
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from shared.sse import Decoder, Event

DEADLINE_S = 10.0  # a test that waits longer has failed
CLAUDE = "claude-sonnet-4-6"
GEMINI = "gemini-3-flash-preview"
EMBEDDER = "gemini-embedding-001"

WEATHER: dict[str, Any] = {
    "functionDeclarations": [
        {"name": "get_weather", "parametersJsonSchema": {"type": "object", "properties": {"city": {"type": "string"}}}},
        {"name": "get_time"},
    ]
}
ASK = [{"text": "The weather?"}]
CALL: dict[str, Any] = {"functionCall": {"name": "get_weather", "args": {"city": "Seoul"}}}
SIGNED = CALL | {"thoughtSignature": "c2ln"}
RESULT = {"functionResponse": {"name": "get_weather", "response": {"weather": "rain"}}}


def history(*turns: list[Any]) -> dict[str, Any]:
    """A conversation with Gemini, its turns the user's and the model's by turns."""
    roles = ("user", "model") * len(turns)
    return {"contents": [{"role": role, "parts": turn} for role, turn in zip(roles, turns, strict=False)]}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and how: `broken` is a body that ended before its end."""

    status: int
    headers: Any
    body: bytes
    broken: bool

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def events(self) -> list[Event]:
        return Decoder().feed(self.body)


@dataclass(frozen=True, slots=True)
class Peer:
    """Speaks to a simulator without an SDK."""

    url: str
    session: aiohttp.ClientSession

    async def post(self, path: str, body: Any, headers: dict[str, str]) -> Answer:
        data, sent = bytearray(), io.BytesIO(orjson.dumps(body))
        async with self.session.post(self.url + path, data=sent, headers=headers) as response:
            try:
                async for part in response.content.iter_any():
                    data += part
            except aiohttp.ClientPayloadError:
                return Answer(response.status, response.headers, bytes(data), broken=True)
        return Answer(response.status, response.headers, bytes(data), broken=False)

    async def claude(self, prompt: str = "Hello", *, headers: dict[str, str] | None = None, **members: Any) -> Answer:
        body = {"model": CLAUDE, "max_tokens": 1000, "messages": [{"role": "user", "content": prompt}]} | members
        given = {"x-api-key": "key", "anthropic-version": "2023-06-01"} if headers is None else headers
        return await self.post("/v1/messages", {k: v for k, v in body.items() if v is not None}, given)

    async def gemini(
        self, prompt: str = "Hello", *, model: str = GEMINI, stream: bool = False, **members: Any
    ) -> Answer:
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        body = {"contents": [{"role": "user", "parts": [{"text": prompt}]}]} | members
        return await self.google(f"{model}:{method}", body)

    async def google(self, method: str, body: Any) -> Answer:
        return await self.post(f"/v1beta/models/{method}", body, {"x-goog-api-key": "key"})

    async def served(self, since: int = 0) -> Any:
        async with self.session.get(f"{self.url}/simulator/served", params={"since": str(since)}) as response:
            return await response.json()
