"""An answer on Anthropic's wire, whole or as events (docs.claude.com, "Messages", "Streaming messages").

Events are joined from bytes prepared once. What real streams do to careless readers is here as well, chosen by the
digest of the request: padded data lines, pings, an event nobody knows, usage that comes late and in parts.
"""

from typing import Any, NamedTuple

import orjson

from services.simulator.model import Generation, signature
from services.simulator.script import Frame, Stream
from shared.money import Tokens

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
UNKNOWN = b'event: weather_report\ndata: {"type":"weather_report","sky":"clear"}\n\n'
PADDINGS = (b"}\n\n", b"        }   \n\n", b" } \n\n", b"}      \n\n")  # the last brace of a data line and what follows
STOP_REASONS = {"done": "end_turn", "max_tokens": "max_tokens", "stop_sequence": "stop_sequence"}
PLACEHOLDER_OUTPUT = 1  # what message_start says of output, before anything was generated


class Reply(NamedTuple):
    """What is to be said; `reason`, if any, overrules the generation's end."""

    id: str
    model: str
    generation: Generation
    tokens: Tokens
    tells_usage: bool
    reason: str | None
    thoughts: bool
    shows_thoughts: bool
    seed: bytes


def message(reply: Reply) -> bytes:
    """The body of a buffered answer."""
    content: list[dict[str, Any]] = []
    if reply.thoughts:
        shown = reply.generation.thought if reply.shows_thoughts else ""
        content.append({"type": "thinking", "thinking": shown, "signature": signature(reply.seed)})
    if reply.generation.pieces:
        content.append({"type": "text", "text": reply.generation.text})
    usage = _usage(reply.tokens, reply.tokens.output) | _details(reply.tokens)
    return orjson.dumps(_envelope(reply, content) | _end(reply) | _told(reply, usage))


def stream(reply: Reply, failure: bytes) -> Stream:
    """The events of a streamed answer; `failure` is the data of the error that may break it."""
    seed, index, output = reply.seed, int(reply.thoughts), reply.tokens.output
    start = _event(b"message_start", {"message": _start(reply)}, PADDINGS[1])
    opening = [Frame(start + PING if seed[0] % 2 else start)]
    if reply.thoughts:
        opening += _thinking(reply)
    closing = []
    if reply.generation.pieces:
        block = {"index": index, "content_block": {"type": "text", "text": ""}}
        opening.append(Frame(_event(b"content_block_start", block) + PING, reply.generation.thought_tokens))
        closing.append(Frame(_event(b"content_block_stop", {"index": index}), output))
    end = {"delta": _end(reply)} | _told(reply, _last_usage(reply))
    closing.append(Frame(_event(b"message_delta", end, PADDINGS[seed[1] % 4]), output))
    closing.append(Frame(_event(b"message_stop", {}), output))
    return Stream(opening, _text(reply, index), closing, b"event: error\ndata: " + failure + b"\n\n")


def _event(name: bytes, members: dict[str, Any], ending: bytes = PADDINGS[0]) -> bytes:
    data = orjson.dumps({"type": name.decode()} | members)
    return b"event: " + name + b"\ndata: " + data[:-1] + ending


def _envelope(reply: Reply, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": reply.id, "type": "message", "role": "assistant", "model": reply.model, "content": content}


def _start(reply: Reply) -> dict[str, Any]:
    nothing = {"stop_reason": None, "stop_sequence": None, "stop_details": None}
    return _envelope(reply, []) | nothing | _told(reply, _usage(reply.tokens, PLACEHOLDER_OUTPUT))


def _thinking(reply: Reply) -> list[Frame]:
    """One thinking block: its text only if it is shown, and an empty delta before the signature."""
    thought, total = reply.generation.thought, reply.generation.thought_tokens
    half = len(thought) // 2
    texts = [thought[:half], thought[half:], ""] if reply.shows_thoughts else [""]
    deltas = [{"type": "thinking_delta", "thinking": text} for text in texts]
    deltas.append({"type": "signature_delta", "signature": signature(reply.seed)})
    block = {"type": "thinking", "thinking": "", "signature": ""}
    return [
        Frame(_event(b"content_block_start", {"index": 0, "content_block": block})),
        *(Frame(_event(b"content_block_delta", {"index": 0, "delta": delta}), total) for delta in deltas),
        Frame(_event(b"content_block_stop", {"index": 0}), total),
    ]


def _text(reply: Reply, index: int) -> list[Frame]:
    seed, generation = reply.seed, reply.generation
    head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,' % index
    head += b'"delta":{"type":"text_delta","text":'
    endings = [b"}" + padding for padding in PADDINGS]
    stranger = seed[2] % (4 * len(generation.pieces) or 1)  # its place lies inside one stream of four
    frames = []
    for i, (piece, tokens) in enumerate(zip(generation.pieces, generation.running_tokens, strict=True)):
        data = head + orjson.dumps(piece) + endings[seed[i % len(seed)] % 4]
        frames.append(Frame(data + UNKNOWN if i == stranger else data, generation.thought_tokens + tokens))
    return frames


def _end(reply: Reply) -> dict[str, Any]:
    reason = reply.reason or STOP_REASONS[reply.generation.end]
    details = None
    if reason == "refusal":
        details = {"type": "refusal", "category": None, "explanation": "The simulator was told to refuse."}
    stop = reply.generation.stop if reason == "stop_sequence" else None
    return {"stop_reason": reason, "stop_sequence": stop, "stop_details": details}


def _told(reply: Reply, usage: dict[str, Any]) -> dict[str, Any]:
    return {"usage": usage} if reply.tells_usage else {}


def _usage(tokens: Tokens, output: int) -> dict[str, Any]:
    return _input_usage(tokens) | {
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_write,
            "ephemeral_1h_input_tokens": tokens.cache_write_1h,
        },
        "output_tokens": output,
        "service_tier": "standard",
        "inference_geo": "not_available",
    }


def _last_usage(reply: Reply) -> dict[str, Any]:
    """The cumulative usage of message_delta: in one stream of two it repeats the input."""
    repeated = _input_usage(reply.tokens) if reply.seed[3] % 2 else {}
    return repeated | {"output_tokens": reply.tokens.output} | _details(reply.tokens)


def _input_usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": tokens.input,
        "cache_creation_input_tokens": tokens.cache_write + tokens.cache_write_1h,
        "cache_read_input_tokens": tokens.cache_read,
    }


def _details(tokens: Tokens) -> dict[str, Any]:
    return {"output_tokens_details": {"thinking_tokens": tokens.reasoning}} if tokens.reasoning else {}
