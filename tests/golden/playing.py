"""A golden, played: its request translated, its upstream calls answered, and its answer read, all by pure functions."""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest

from services.workers import anthropic, google, replies
from services.workers.google.caching import Cached
from services.workers.memory import BoundedMemory
from services.workers.provider import (
    DISPROVED,
    Call,
    Failed,
    Provider,
    Supplier,
    UpstreamReply,
    UpstreamRequest,
    Usage,
)
from services.workers.reader import Translation
from services.workers.settle import trusted
from shared import catalog
from shared.bodies import parse
from shared.errors import UpstreamError
from shared.money import cost_pico
from shared.openai import ChatRequest, EmbeddingsRequest
from tests.golden.exchanges import Exchange

CATALOG = catalog.load()
PROVIDERS: dict[str, Provider] = {"anthropic": anthropic.PROVIDER, "google": google.PROVIDER}
SUPPLIERS = {
    "anthropic": Supplier("golden", "https://api.anthropic.com", {"x-api-key": "$ANTHROPIC_API_KEY"}),
    "google": Supplier(
        "golden", "https://generativelanguage.googleapis.com/v1beta", {"x-goog-api-key": "$GEMINI_API_KEY"}
    ),
}


class Holding(BoundedMemory):
    """A memory that holds what a golden says was there before."""

    def __init__(self, cached_content: str | None) -> None:
        super().__init__()
        self._cached_content = cached_content

    def get(self, key: str) -> Any:
        return Cached(str(self._cached_content), "an earlier request") if self._holds(key) else super().get(key)

    def left_s(self, key: str) -> float:
        return 300.0 if self._holds(key) else super().left_s(key)

    def _holds(self, key: str) -> bool:
        """Until something else is put there."""
        return self._cached_content is not None and key.startswith("cache:") and key not in self._values


class Played:
    """One golden, its request parsed, its upstream calls made and answered."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.provider = PROVIDERS[exchange.path.parent.name]
        self.supplier = SUPPLIERS[exchange.path.parent.name]
        body = json.dumps(exchange.request).encode()
        self.is_chat = exchange.content["client"]["path"].endswith("/chat/completions")
        self.request: Any = parse(ChatRequest, body) if self.is_chat else parse(EmbeddingsRequest, body)
        self.model = CATALOG[self.request.model]
        self.memory = Holding(exchange.content.get("precondition", {}).get("cached_content"))

    def calls(self) -> Iterator[tuple[UpstreamRequest, dict[str, Any]]]:
        """Each call with the golden's own; `result` is set when the plan has ended."""
        upstream = iter(self.exchange.upstream)
        yield from self._attempt(upstream)
        for remaining in upstream:  # the golden goes on: the folder must have said that its call may be made again
            failed = self.failed()
            assert failed.retries or failed.disproves
            if failed.disproves:
                self.memory.put(self.result.assumes[failed.disproves], DISPROVED, 60)
            yield from self._attempt(chain([remaining], upstream))

    def _attempt(self, upstream: Iterator[dict[str, Any]]) -> Iterator[tuple[UpstreamRequest, dict[str, Any]]]:
        plan, reply = self._plan(), None
        while True:
            try:
                call = plan.send(reply)
            except StopIteration as end:
                self.result = end.value
                break
            except Failed as failed:
                self.result = failed
                break
            expected = self.last = next(upstream)
            yield call, expected
            reply = self.reply(expected["response"])
        if isinstance(self.result, UpstreamRequest):
            self.last = next(upstream)
            yield self.result, self.last

    def failed(self) -> Failed:
        """What the folder makes of the last call, which brought no answer."""
        if isinstance(self.result, Failed):
            return self.result
        reply = self.reply(self.last["response"])
        if reply.status != 200:
            return self.provider.failure(self.supplier, reply)
        with pytest.raises(Failed) as raised:
            self._read(reply)
        return raised.value

    def _read(self, reply: UpstreamReply) -> None:
        if not self.request.stream:
            self.provider.answer(self.request, self.result, reply)
            return
        translation = Translation(self.provider.stream(self.request, self.result, reply.headers))
        translation.feed(reply.body)
        translation.end()

    def _plan(self) -> Any:
        call = Call(
            self.request,
            self.model,
            self.supplier,
            self.memory,
            "golden-request",
            "golden",
            1795350000,
        )
        if self.is_chat:
            return self.provider.plan(call)
        assert self.provider.embed is not None
        return self.provider.embed(call)

    def reply(self, response: dict[str, Any]) -> UpstreamReply:
        headers = {name.lower(): value for name, value in response["headers"].items()}
        return UpstreamReply(response["status"], headers, self.exchange.bytes_of(response))


def head_of(played: Played) -> replies.Head:
    return replies.Head("golden", 1795350000, played.model.id)


def play(exchange: Exchange) -> Played:
    played = Played(exchange)
    for _ in played.calls():
        pass
    return played


def streamed(played: Played, pieces: list[bytes]) -> tuple[bytes, Usage, Any]:
    """What the client would read, when the upstream stream comes in these pieces."""
    headers = {name.lower(): value for name, value in played.last["response"]["headers"].items()}
    translation = Translation(played.provider.stream(played.request, played.result, headers))
    stream, chunks = translation.stream, replies.Chunks(head_of(played))
    sent = [chunks.role()]
    try:
        for piece in pieces:
            sent.append(chunks.deltas(translation.feed(piece)))  # noqa: PERF401 - what came before a failure counts
        translation.end()
    except Failed as failed:
        sent.append(replies.interruption(UpstreamError.interrupted(failed.words)))
        return b"".join(sent), stream.usage, stream
    assert stream.finish is not None
    usage = trusted(played.request, translation.text_bytes, stream.usage)
    sent.append(chunks.end(stream.finish, usage.tokens, cost_pico(usage.tokens, played.model.rates)))
    return b"".join(sent), usage, stream
