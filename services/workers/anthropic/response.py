"""Messages API answers, whole and streamed, as OpenAI's (docs.claude.com, "Messages" and "Streaming messages").

A stream is read by the event's own `type`; unknown events and deltas are skipped, as the API's versioning asks.
Counts are cumulative: each non-null field overwrites what an earlier event said. The answer is complete when a
stop_reason was seen; `message_stop` adds nothing.
"""

from collections.abc import Mapping
from typing import Any

from services.workers.anthropic.wire import read_error, usage
from services.workers.provider import (
    Answer,
    Delta,
    Failed,
    Finish,
    FinishReason,
    UpstreamReply,
    UpstreamRequest,
    Usage,
    json_object,
)
from shared.errors import UpstreamError
from shared.openai import ChatRequest
from shared.sse import Event

FINISH_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length",
    "model_context_window_exceeded": "length", "tool_use": "tool_calls", "refusal": "content_filter",
}  # fmt: skip


def answer(request: ChatRequest, _: UpstreamRequest, reply: UpstreamReply) -> Answer:
    """A whole answer. Raises Failed."""
    body = json_object(reply.body)
    blocks = body.get("content") or []
    text = "".join(block.get("text", "") for block in blocks if block.get("type") == "text")
    message: dict[str, Any] = {"role": "assistant", "content": text}
    reasoning = "".join(block.get("thinking", "") for block in blocks if block.get("type") == "thinking")
    if reasoning and request.shows_reasoning:
        message["reasoning"] = reasoning
    finish = _finish(body.get("stop_reason"), started=bool(text))
    if finish.reason == "content_filter" and (refusal := _refusal(body)):
        message["refusal"] = refusal
    return Answer(message, finish, usage(body.get("usage") or {}), reply.headers.get("request-id"))


class Stream:
    """Reads one streamed answer."""

    def __init__(self, request: ChatRequest, _: UpstreamRequest, headers: Mapping[str, str]) -> None:
        self.finish: Finish | None = None
        self.upstream_id = headers.get("request-id")
        self._shown = request.shows_reasoning
        self._started = False
        self._usage: dict[str, Any] = {}

    @property
    def usage(self) -> Usage:
        """The newest value of every count."""
        return usage(self._usage)

    def feed(self, event: Event) -> list[Delta]:
        """The deltas of one event. Raises Failed for `error`."""
        data = json_object(event.data)
        match data.get("type"):
            case "content_block_start":
                return self._delta(data.get("content_block") or {})
            case "content_block_delta":
                return self._delta(data.get("delta") or {})
            case "message_start":
                self._count((data.get("message") or {}).get("usage"))
            case "message_delta":
                self._count(data.get("usage"))
                return self._end(data.get("delta") or {})
            case "error":
                raise read_error(data)
        return []

    def _delta(self, part: dict[str, Any]) -> list[Delta]:
        """A delta, or a block that starts with something in it; signatures and redacted thinking show nothing."""
        kind = part.get("type")
        if kind in {"text_delta", "text"} and (text := part.get("text")):
            self._started = True
            return [{"content": text}]
        if kind in {"thinking_delta", "thinking"} and self._shown and (thought := part.get("thinking")):
            return [{"reasoning": thought}]
        return []

    def _end(self, delta: dict[str, Any]) -> list[Delta]:
        if (reason := delta.get("stop_reason")) is None:
            return []
        self.finish = _finish(reason, started=self._started)
        refusal = _refusal(delta) if self.finish.reason == "content_filter" else None
        return [{"refusal": refusal}] if refusal else []

    def _count(self, counts: dict[str, Any] | None) -> None:
        self._usage |= {name: value for name, value in (counts or {}).items() if value is not None}


def _finish(native: str | None, *, started: bool) -> Finish:
    """OpenAI's word for a stop_reason; one that we do not know fails the call unless text was already sent."""
    reason = FINISH_REASONS.get(native or "")
    if reason is None and not started:
        raise Failed(UpstreamError(f"the provider stopped for an unknown reason: {native}"), retries=1)
    return Finish(reason or "stop", native or "unknown")


def _refusal(holder: dict[str, Any]) -> str | None:
    return (holder.get("stop_details") or {}).get("explanation")
