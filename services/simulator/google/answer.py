"""An answer on Gemini's wire, whole or as events (ai.google.dev/api/generate-content).

A stream ends its lines with CRLF, carries the usage so far on every chunk, its finish in a last empty one, and has
no other end. Chunks are joined from bytes prepared once.
"""

from typing import Any, NamedTuple

import orjson

from services.simulator.model import Generation, compact, count, signature
from services.simulator.script import Frame, Stream
from shared.money import Tokens

FINISH = {"done": "STOP", "max_tokens": "MAX_TOKENS", "stop_sequence": "STOP"}
SILENT = frozenset({"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"})  # ends without content
MORE = {"index": 0}  # what a candidate carries until the last chunk
CALLED = "Model generated function call(s)."


class Reply(NamedTuple):
    """What is to be said; `reason`, if any, overrules the generation's end; `traffic` is told with the counts."""

    id: str
    model: str
    generation: Generation
    calls: list[dict[str, Any]]
    tokens: Tokens
    tells_usage: bool
    traffic: str | None
    modalities: dict[str, int]
    reason: str | None
    shows_thoughts: bool
    seed: bytes


def response(reply: Reply) -> bytes:
    """The body of a buffered answer."""
    parts = _thoughts(reply) + (_calls(reply) or _text(reply, reply.generation.text))
    return _body(reply, parts, reply.tokens.output, _ending(reply))


def blocked(reply: Reply, reason: str) -> bytes:
    """The body, or the only chunk, of an answer to a prompt that was blocked."""
    return compact({"promptFeedback": {"blockReason": reason}} | _rest(reply, 0)).encode()


def stream(reply: Reply, failure: bytes) -> Stream:
    """The chunks of a streamed answer; `failure` is the data of the error that may break it."""
    output = reply.generation.thought_tokens
    opening = [Frame(_event(_body(reply, [part], output, MORE)), output) for part in _thoughts(reply)]
    chunks = _call_chunks(reply) if reply.calls else _text_chunks(reply)
    last = [{"text": ""}] if reply.calls else _text(reply, "")
    total = reply.tokens.output
    closing = Frame(_event(_body(reply, last, total, _ending(reply))), total)
    return Stream(opening, chunks, [closing], _event(failure))


def call_tokens(call: dict[str, Any]) -> int:
    """What a call counts as output."""
    return count(call["name"] + compact(call["args"]))


def _thoughts(reply: Reply) -> list[dict[str, Any]]:
    shown = reply.shows_thoughts and reply.generation.thought
    return [{"text": reply.generation.thought, "thought": True}] if shown else []


def _calls(reply: Reply) -> list[dict[str, Any]]:
    """The calls of a step, of which the first carries the signature."""
    parts: list[dict[str, Any]] = [{"functionCall": call} for call in reply.calls]
    return [part | {"thoughtSignature": signature(reply.seed)} for part in parts[:1]] + parts[1:]


def _text(reply: Reply, text: str) -> list[dict[str, Any]]:
    """The text with which an answer ends; none where the limit was reached while thinking."""
    if not reply.generation.pieces and reply.generation.end == "max_tokens":
        return []
    return [{"text": text} | ({"thoughtSignature": signature(reply.seed)} if reply.generation.thought else {})]


def _body(reply: Reply, parts: list[dict[str, Any]], output: int, ending: dict[str, Any]) -> bytes:
    """A response object; `output` are the tokens so far, thoughts included."""
    silent = ending.get("finishReason") in SILENT and not reply.generation.pieces
    content = {} if silent else ({"parts": parts} if parts else {}) | {"role": "model"}
    return compact({"candidates": [{"content": content} | ending]} | _rest(reply, output)).encode()


def _ending(reply: Reply) -> dict[str, Any]:
    ending = {"finishReason": reply.reason or FINISH[reply.generation.end], "index": 0}
    return ending | {"finishMessage": CALLED} if reply.calls else ending


def _rest(reply: Reply, output: int) -> dict[str, Any]:
    """What follows the candidates: in its usage, cached tokens are inside the prompt's, thoughts outside the rest."""
    identity = {"modelVersion": reply.model, "responseId": reply.id}
    if not reply.tells_usage:
        return identity
    prompt = reply.tokens.prompt
    counts = {"promptTokenCount": prompt, "candidatesTokenCount": output - reply.tokens.reasoning}
    told = {name: n for name, n in counts.items() if n} | {"totalTokenCount": prompt + output}
    return {"usageMetadata": told | _details(reply)} | identity


def _details(reply: Reply) -> dict[str, Any]:
    tokens = reply.tokens
    details: dict[str, Any] = {"trafficType": reply.traffic} if reply.traffic else {}
    if tokens.cache_read:
        details["cachedContentTokenCount"] = tokens.cache_read
        details["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": tokens.cache_read}]
    modalities = reply.modalities | {"TEXT": reply.modalities["TEXT"] + tokens.cache_read}
    details["promptTokensDetails"] = [{"modality": name, "tokenCount": n} for name, n in modalities.items()]
    return details | ({"thoughtsTokenCount": tokens.reasoning} if tokens.reasoning else {})


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\r\n\r\n"


def _call_chunks(reply: Reply) -> list[Frame]:
    """One chunk a call."""
    output = reply.generation.thought_tokens
    frames = []
    for part in _calls(reply):
        output += call_tokens(part["functionCall"])
        frames.append(Frame(_event(_body(reply, [part], output, MORE)), output))
    return frames


def _text_chunks(reply: Reply) -> list[Frame]:
    """One chunk a piece; but for its text and two running counts it is made of bytes prepared once."""
    prompt, thoughts = reply.tokens.prompt, reply.generation.thought_tokens
    identity = orjson.dumps({"modelVersion": reply.model, "responseId": reply.id})[1:]
    frames = []
    head = b'data: {"candidates":[{"content":{"parts":[{"text":'
    middle = b'}],"role":"model"},"index":0}],'
    counts = b'"usageMetadata":{"promptTokenCount":%d,"candidatesTokenCount":%%d,"totalTokenCount":%%d,' % prompt
    details = orjson.dumps(_details(reply))[1:-1] + b"},"
    for piece, tokens in zip(reply.generation.pieces, reply.generation.running_tokens, strict=True):
        output = thoughts + tokens
        told = counts % (tokens, prompt + output) + details if reply.tells_usage else b""
        frames.append(Frame(head + orjson.dumps(piece) + middle + told + identity + b"\r\n\r\n", output))
    return frames
