"""Answers in OpenAI's form, as bytes: the completion, the chunks of a stream, the list of embeddings.

The host writes what frames an answer (role, finish, usage, `[DONE]`), so no provider can forget it.
"""

import base64
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from services.workers.provider import Answer, Delta, Finish, ServiceTier, Usage, Vectors
from shared.errors import ApiError
from shared.ids import CHAT_PREFIX
from shared.money import Tokens, usd

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """What stands in every piece of one answer. `created` is Unix time."""

    request_id: str
    created: int
    model: str
    service_tier: ServiceTier = "standard"

    def members(self, kind: str) -> dict[str, Any]:
        """The first members of a completion or a chunk; the tier only where it is not the standard one."""
        tier = {} if self.service_tier == "standard" else {"service_tier": self.service_tier}
        return {
            "id": CHAT_PREFIX + self.request_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            **tier,
        }


def completion(head: Head, answer: Answer, counted: Usage, cost_pico: int) -> bytes:
    """A `chat.completion`; `counted` is what is billed."""
    choice = {"index": 0, "message": answer.message, "finish_reason": answer.finish.reason}
    body = head.members("chat.completion") | {"choices": [choice], "usage": usage(counted.tokens, cost_pico)}
    return orjson.dumps(body)


def usage(tokens: Tokens, cost_pico: int) -> dict[str, Any]:
    """The `usage` member. Details break the totals down and stand only where they are not zero."""
    body: dict[str, Any] = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.total,
    }
    created = tokens.cache_write + tokens.cache_write_1h
    if tokens.cache_read or created:
        details = {"cached_tokens": tokens.cache_read, "cache_creation_tokens": created}
        if tokens.cache_write_1h:
            details["cache_creation_1h_tokens"] = tokens.cache_write_1h
        body["prompt_tokens_details"] = details
    if tokens.reasoning:
        body["completion_tokens_details"] = {"reasoning_tokens": tokens.reasoning}
    return body | {"cost": _number(cost_pico)}


class Chunks:
    """The chunks of one stream; what is the same in all of them is encoded once."""

    def __init__(self, head: Head) -> None:
        self._head = b"data: " + orjson.dumps(head.members("chat.completion.chunk"))[:-1]
        self._delta = self._head + b',"choices":[{"index":0,"delta":'

    def role(self) -> bytes:
        """The first chunk."""
        return self.deltas([{"role": "assistant"}])

    def deltas(self, deltas: Iterable[Delta]) -> bytes:
        """One chunk a delta, ready to leave in one write."""
        return b"".join(
            b"%b%b%b" % (self._delta, orjson.dumps(delta), b',"finish_reason":null}]}\n\n') for delta in deltas
        )

    def end(self, finish: Finish, tokens: Tokens, cost_pico: int) -> bytes:
        """The finish chunk, the usage chunk, and what closes the stream."""
        reason, used = orjson.dumps(finish.reason), orjson.dumps(usage(tokens, cost_pico))
        return b"".join(
            (
                self._delta, b'{},"finish_reason":', reason, b"}]}\n\n",
                self._head, b',"choices":[],"usage":', used, b"}\n\n",
                DONE, settled_mark(cost_pico, tokens.total),
            )
        )  # fmt: skip


def interruption(error: ApiError) -> bytes:
    """The end of a stream that broke: the envelope as an event, and what closes the stream."""
    return b"data: " + orjson.dumps(error.body()) + b"\n\n" + DONE


def settled_mark(cost_pico: int, tokens: int = 0) -> bytes:
    """The comment by which the edge knows that the usage is durable, and what counts: its cost and all its tokens."""
    return b": settled %d %d\n\n" % (cost_pico, tokens)


def embeddings(model: str, vectors: Vectors, cost_pico: int, *, as_base64: bool) -> bytes:
    """The list of embeddings, in the order of the inputs."""
    tokens = vectors.usage.tokens.prompt
    return orjson.dumps(
        {
            "object": "list",
            "model": model,
            "data": [
                {"object": "embedding", "index": index, "embedding": _little_endian(values) if as_base64 else values}
                for index, values in enumerate(vectors.vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "cost": _number(cost_pico)},
        }
    )


def _little_endian(values: list[float]) -> str:
    """Base64 of little-endian float32, which the OpenAI SDKs ask for by themselves."""
    packed = array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()


def _number(pico: int) -> orjson.Fragment:
    """USD as a JSON number, written digit by digit: no float comes near it."""
    return orjson.Fragment(usd(pico))
