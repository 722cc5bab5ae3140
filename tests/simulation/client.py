"""Clients: each asks once, reads as far as it gets, may lose its patience, and remembers what it saw."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from services.edge.client import Client
from services.edge.reply import WorkerGone
from services.workers.settle import BYTES_PER_TOKEN
from shared.sse import Decoder
from tests.simulation.loop import Loop
from tests.simulation.provider import MODEL, tokens_in

PATH = "/v1/chat/completions"


@dataclass(slots=True)
class Seen:
    """What one client saw of its one request."""

    number: int
    edge: str
    stream: bool
    patience_s: float
    began_s: float = 0.0
    ended_s: float = 0.0
    status: int = 0
    request_id: str | None = None
    body: bytes = b""
    complete: bool = False
    left: bool = False
    broken: bool = False
    usage: dict[str, Any] | None = None
    failed: bool = False

    @property
    def whole(self) -> bool:
        """Whether it has the whole answer in its hands, and no error."""
        return self.usage is not None and not self.failed

    def judge(self) -> None:
        """Read what came."""
        self.failed = self.status != 200
        if self.status == 200 and self.stream:
            self._judge_stream()
        elif self.status == 200 and self.complete:
            self.usage = json.loads(self.body)["usage"]

    def _judge_stream(self) -> None:
        done, usage = False, None
        for event in Decoder().feed(self.body):
            if event.data == "[DONE]":
                done = True
                continue
            chunk = json.loads(event.data)
            self.failed |= "error" in chunk
            usage = chunk.get("usage") or usage
        self.usage = usage if done else None


async def ask(loop: Loop, seen: Seen, key: str) -> None:
    """Send the request and read the answer."""
    content = f"This is request {seen.number}.".ljust(BYTES_PER_TOKEN * tokens_in(seen.number))
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "stream": seen.stream}
    if seen.stream:
        body["stream_options"] = {"include_usage": True}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Connection": "close"}
    client, seen.began_s = Client(), loop.now
    try:
        async with asyncio.timeout(seen.patience_s):
            connection = await client.connection((seen.edge, 8080))
            async with client.post(connection, PATH, headers, json.dumps(body).encode()) as reply:
                seen.status, seen.request_id = reply.status, reply.headers["x-request-id"]
                while piece := await reply.readany():
                    seen.body += piece
                seen.complete = True
    except TimeoutError:
        seen.left = True
    except (WorkerGone, OSError):
        seen.broken = True
    seen.ended_s = loop.now
    seen.judge()
    loop.note(
        "client_done", number=seen.number, status=seen.status, whole=seen.whole, left=seen.left, broken=seen.broken,
        id=seen.request_id,
    )  # fmt: skip
