"""A provider that speaks just enough of Anthropic's wire, and keeps its own log of what it served.

What it answers is decided by the number in the prompt and the seed; the counts differ with every call, so that a
debit tells which call it is for.
"""

import asyncio
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.simulation.loop import Loop

ADDRESS = "provider"
MODEL = "anthropic/claude-sonnet-4-6"
PAUSE_S = 1.0  # the longest between two pieces of an answer
MOODS = {"ends": 12, "refuses": 1, "overloaded": 1, "breaks": 2, "hangs": 1, "begins_late": 1}


def tokens_in(number: int) -> int:
    """What a client's request counts: it tells whose it is, by the provider's word or by an estimate."""
    return 100 + number


@dataclass(slots=True)
class Served:
    """One call: what it counts, which worker made it, and whether all of its answer left."""

    number: int
    input: int
    output: int
    mood: str
    worker: str
    ended: bool = False


class Provider:
    """All calls."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.calls = loop, list[Served]()

    def connection(self) -> asyncio.Protocol:
        return _Connection(self)

    def served(self, number: int) -> list[Served]:
        """The calls made for the client's request of this number."""
        return [call for call in self.calls if call.number == number]

    def begin(self, body: dict[str, Any], worker: str) -> Served:
        found = re.search(r"request (\d+)", json.dumps(body["messages"]))
        assert found is not None
        number, rng = int(found[1]), self.loop.rng
        mood = rng.choices(list(MOODS), list(MOODS.values()))[0]
        call = Served(number, tokens_in(number), 10 + len(self.calls), mood, worker)
        self.calls.append(call)
        self.loop.note("provider_called", number=number, mood=mood)
        return call


class _Connection(asyncio.Protocol):
    """One connection, which carries one call at a time."""

    def __init__(self, provider: Provider) -> None:
        self._provider, self._loop, self._buffer = provider, provider.loop, b""
        self._lost = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if end and length and len(rest) >= int(length[1]):
            body, self._buffer = json.loads(rest[: int(length[1])]), rest[int(length[1]) :]
            self._loop.create_task(self._answer(body))

    async def _answer(self, body: dict[str, Any]) -> None:
        call = self._provider.begin(body, self._transport.peer.process.name)
        rng = self._loop.rng
        await asyncio.sleep(rng.random() * (10.0 if call.mood == "begins_late" else PAUSE_S))
        if call.mood == "hangs":
            return
        if call.mood in {"refuses", "overloaded"}:
            self._write(_error(400 if call.mood == "refuses" else 529))
            return
        pieces = list(_stream(call, rng) if body.get("stream") else [_whole(call)])
        if call.mood == "breaks":
            pieces = pieces[: int(rng.random() * len(pieces))]
        for piece in pieces:
            await asyncio.sleep(rng.random() * PAUSE_S)
            if self._lost:
                return
            call.ended = piece is pieces[-1] and call.mood != "breaks"
            self._write(piece)
        if call.mood == "breaks":
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        self._transport.write(data)


def _stream(call: Served, rng: random.Random) -> Iterator[bytes]:
    usage = {"input_tokens": call.input, "output_tokens": 1}
    message = {"id": f"msg_{call.output}", "type": "message", "role": "assistant", "content": [], "usage": usage}
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    block = {"index": 0, "content_block": {"type": "text", "text": ""}}
    yield head.encode() + _event("message_start", message=message) + _event("content_block_start", **block)
    for _ in range(1 + int(rng.random() * 4)):
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": "word " * 3})
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    end = _event("message_delta", delta=delta, usage={"output_tokens": call.output})
    yield end + _event("message_stop") + b"0\r\n\r\n"


def _event(kind: str, **members: Any) -> bytes:
    event = b"event: %s\ndata: %s\n\n" % (kind.encode(), json.dumps({"type": kind, **members}).encode())
    return b"%x\r\n%s\r\n" % (len(event), event)


def _whole(call: Served) -> bytes:
    body = {
        "id": f"msg_{call.output}", "type": "message", "role": "assistant", "model": "claude",
        "content": [{"type": "text", "text": "an answer"}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": call.input, "output_tokens": call.output},
    }  # fmt: skip
    return _reply(200, body)


def _error(status: int) -> bytes:
    kind = "invalid_request_error" if status == 400 else "overloaded_error"
    return _reply(status, {"type": "error", "error": {"type": kind, "message": "no"}})


def _reply(status: int, body: Any) -> bytes:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data
