"""Clients that bear witness: they call on and on, whatever dies, and note for each call what they saw of its answer."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import aiohttp

from shared.money import pico_usd
from tests.e2e.load import MODELS
from tests.e2e.stacks import READY_TIMEOUT_S, Stack, until
from tests.faults.background import Background
from tests.faults.cluster import Cluster

PATH = "/v1/chat/completions"
TIMEOUT_S = 120.0  # a call that hangs for longer is a finding
PAUSE_S = 0.02  # after a call that failed: whoever is dead needs a second to come back
PROMPT = "Question {number} [[tokens=24 chunks=4 chunk_delay_ms=2]]"
DONE = b"data: [DONE]\n\n"

Seen = Literal["whole", "refused", "broken", "nothing", "left"]
"""The whole answer; an error instead of one; an error, or a dead connection, inside one; not a byte; not wanted."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call and its end. `request_id` is None where not even a head came; `cost_pico` stands on whole answers."""

    model: str
    stream: bool
    seen: Seen
    request_id: str | None = None
    code: str | None = None
    cost_pico: int = 0


class Witness:
    """The calls so far, in order of their ends."""

    def __init__(self, edges: list[str], key: str, prompt: str, leaving: int) -> None:
        self.calls: list[Call] = []
        self._edges, self._prompt, self._leaving, self._number = edges, prompt, leaving, 0
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    @property
    def whole(self) -> list[Call]:
        return self.seen("whole")

    def seen(self, *kinds: Seen) -> list[Call]:
        """The calls that ended so."""
        return [call for call in self.calls if call.seen in kinds]

    def failures(self) -> Counter[str]:
        """What else clients met than whole answers, and how often."""
        return Counter(f"{call.seen} {call.code or ''}".strip() for call in self.calls if call.seen != "whole")

    def wait_for(self, more: int, kind: Seen = "whole", *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when that many more calls have ended so."""
        enough = len(self.seen(kind)) + more
        until(lambda: len(self.seen(kind)) >= enough, f"{more} more calls end {kind}", timeout_s=timeout_s)

    async def call_one_after_another(self, session: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        while not stop.is_set():
            call = await self._call(session)
            self.calls.append(call)
            if call.seen not in {"whole", "left"}:
                await asyncio.sleep(PAUSE_S)

    async def call_at_a_rate(self, session: aiohttp.ClientSession, stop: asyncio.Event, per_s: float) -> None:
        """Begin calls by the clock, however many are still open; return when all have ended."""
        loop, calls = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        due = loop.time()
        while not stop.is_set():
            task = asyncio.create_task(self._note(session))
            calls.add(task)
            task.add_done_callback(calls.discard)
            due += 1 / per_s
            await asyncio.sleep(max(0.0, due - loop.time()))
        await asyncio.gather(*calls)

    async def _note(self, session: aiohttp.ClientSession) -> None:
        self.calls.append(await self._call(session))

    async def _call(self, session: aiohttp.ClientSession) -> Call:
        self._number = number = self._number + 1
        model, stream = MODELS[number % 2], number % 4 < 2
        messages = [{"role": "user", "content": self._prompt.format(number=number)}]
        leaves = bool(self._leaving) and number % self._leaving == 0
        body, request_id = json.dumps({"model": model, "messages": messages, "stream": stream}), None
        try:
            async with await self._sent(session, body, number) as answer:
                request_id = answer.headers["x-request-id"]
                if answer.status != 200:
                    return Call(model, stream, "refused", request_id, (await answer.json())["error"]["code"])
                if leaves:
                    await answer.content.readany()
                    return Call(model, stream, "left", request_id)
                return _read(await answer.read(), model, request_id, stream=stream)
        except (aiohttp.ClientError, TimeoutError) as error:
            kind: Seen = "broken" if request_id else "nothing"
            return Call(model, stream, kind, request_id, type(error).__name__)

    async def _sent(self, session: aiohttp.ClientSession, body: str, number: int) -> aiohttp.ClientResponse:
        """The answer of the edge whose turn it is; of the next one, where that one takes no connection."""
        first = number % len(self._edges)
        *others, last = self._edges[first:] + self._edges[:first]
        for edge in others:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                return await session.post(f"{edge}{PATH}", data=body, headers=self._headers)
        return await session.post(f"{last}{PATH}", data=body, headers=self._headers)


def _read(body: bytes, model: str, request_id: str, *, stream: bool) -> Call:
    """What a body that came to its end says: a stream is whole with its usage and `[DONE]`, or else was broken."""
    last = json.loads(body, parse_float=Decimal) if not stream else _last_event(body)
    if "usage" not in last:
        return Call(model, stream, "broken", request_id, last.get("error", {}).get("code") or "error")
    cost = last["usage"]["cost"]
    return Call(model, stream, "whole", request_id, cost_pico=pico_usd(f"{Decimal(cost):f}"))


def _last_event(body: bytes) -> Any:
    """The last event before `[DONE]`; {} where there is none."""
    if not body.endswith(DONE):
        return {}
    event = body.removesuffix(DONE).rstrip(b"\n").rpartition(b"\n\n")[2]
    return json.loads(event.removeprefix(b"data: "), parse_float=Decimal)


@contextlib.contextmanager
def calling(
    cluster: Cluster,
    account: Stack,
    *,
    clients: int = 1,
    per_s: float | None = None,
    prompt: str = PROMPT,
    leaving: int = 0,
) -> Iterator[Witness]:
    """Calls for the length of the block, to all edges in turn: by `clients` one after another, or at a rate.

    With `leaving`, every so-manieth client leaves after its first bytes.
    """
    witness = Witness([edge.url for edge in cluster.edges], account.key, prompt, leaving)
    stop = asyncio.Event()

    async def all_calls() -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)  # a kept connection may be dead before it is used
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            if per_s is not None:
                await witness.call_at_a_rate(session, stop, per_s)
            else:
                await asyncio.gather(*(witness.call_one_after_another(session, stop) for _ in range(clients)))

    async def begin() -> "asyncio.Task[None]":
        return asyncio.create_task(all_calls())

    async def end(task: "asyncio.Task[None]") -> None:
        stop.set()
        await task

    with contextlib.closing(Background()) as background:
        task = background.run(begin())
        try:
            yield witness
        finally:
            background.run(end(task), TIMEOUT_S + 10)
