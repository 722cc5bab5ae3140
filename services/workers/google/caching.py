"""Prompt caching by CachedContent (ai.google.dev, "Context caching"; the reference of `cachedContents`).

A breakpoint on a system part puts the whole system instruction, and the tools with it, into a cache that is scoped to
the workspace. With a cache set, neither may stand in the request. Best effort: whatever fails, the request goes on
uncached, and the prefix is left alone for a while. The request that makes a cache is charged for writing it.
"""

import hashlib
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import orjson

from services.workers.google.vertex import Credentials, model_name, read
from services.workers.provider import DISPROVED, Call, Failed, UpstreamReply, UpstreamRequest
from shared.errors import UpstreamError
from shared.messages import SystemMessage
from shared.openai import ChatRequest

TTL_S = 300  # as long as Anthropic's shorter cache lives, so that one breakpoint means the same everywhere
RENEW_BELOW_S = TTL_S / 2  # a cache in use is prolonged in its second half
MARGIN_S = 10  # it is forgotten here before it ends there
UNFIT_S = 300  # how long a prefix that could not be cached is not tried again
IN_CACHE = ("systemInstruction", "tools", "toolConfig")

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cached:
    """A cache that exists upstream, and the request that made it."""

    name: str
    made_by: str


@dataclass(frozen=True, slots=True)
class Content:
    """The body to send, what it assumes, and whether its prefix was written to a cache for it."""

    body: Body
    assumes: dict[str, str] = field(default_factory=dict)
    writes_cache: bool = False


def wanted(request: ChatRequest) -> bool:
    """Whether a system part carries a breakpoint; elsewhere there is nothing that it could mean."""
    system = (message for message in request.messages if isinstance(message, SystemMessage))
    return any(part.cache_control is not None for message in system for part in message.parts)


def with_cache(
    call: Call[ChatRequest], credentials: Credentials, body: Body
) -> Generator[UpstreamRequest, UpstreamReply, Content]:
    """The body with its prefix in a cache, made or renewed as needed; the body as it is where that fails."""
    prefix = {name: body[name] for name in IN_CACHE if name in body}
    digest = _digest(call, prefix)
    key = f"cache:{digest}"
    known = call.memory.get(key)
    if known is DISPROVED or "systemInstruction" not in prefix:
        return Content(body)
    try:
        if known is None:
            known = yield from _made(call, credentials, prefix, digest)
        elif call.memory.left_s(key) < RENEW_BELOW_S:
            yield from _renewed(call, credentials, known)
        else:
            return _reading(call, body, key, known)
    except Failed as failed:
        if failed.disproves == "token":
            raise  # that says nothing about the prefix
        call.memory.put(key, DISPROVED, UNFIT_S)
        return Content(body)
    call.memory.put(key, known, TTL_S - MARGIN_S)
    return _reading(call, body, key, known)


def _digest(call: Call[ChatRequest], prefix: Body) -> str:
    identity = [call.workspace_id, call.supplier.name, call.model.upstream, prefix]
    return hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def _made(
    call: Call[ChatRequest], credentials: Credentials, prefix: Body, digest: str
) -> Generator[UpstreamRequest, UpstreamReply, Cached]:
    content = {
        "model": model_name(call.supplier, call.model.upstream),
        **prefix,
        "ttl": f"{TTL_S}s",
        "displayName": f"ot-{digest}",
    }
    url = f"{call.supplier.base_url}/cachedContents"
    reply = yield UpstreamRequest(url, credentials.headers, orjson.dumps(content))
    body = read(call, credentials, reply)
    if "name" not in body:
        raise Failed(UpstreamError("the prefix cannot be cached"))
    return Cached(str(body["name"]), call.request_id)


def _renewed(
    call: Call[ChatRequest], credentials: Credentials, known: Cached
) -> Generator[UpstreamRequest, UpstreamReply, None]:
    url = f"{call.supplier.base_url}/cachedContents/{known.name.rpartition('/')[2]}?updateMask=ttl"
    reply = yield UpstreamRequest(url, credentials.headers, orjson.dumps({"ttl": f"{TTL_S}s"}), method="PATCH")
    read(call, credentials, reply)


def _reading(call: Call[ChatRequest], body: Body, key: str, cached: Cached) -> Content:
    rest = {name: value for name, value in body.items() if name not in IN_CACHE}
    written = cached.made_by == call.request_id
    return Content({**rest, "cachedContent": cached.name}, {"cache": key}, written)
