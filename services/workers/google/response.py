"""generateContent answers, whole and streamed, as OpenAI's (ai.google.dev, "GenerateContentResponse").

A whole answer is read as a stream of one event, so both give the same text, calls and counts. Usage stands on every
chunk and is cumulative, may fall as well as rise, and fields vanish late: the last non-empty value of each counts.
Complete means that a finishReason or a blockReason was seen; the provider sends no end marker.
"""

from collections.abc import Mapping
from typing import Any

from services.workers.google.tools import tool_call
from services.workers.google.wire import read_error, usage
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

FILTERED = (
    "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "NO_IMAGE", "ESCALATION",
    "MODEL_ARMOR",
)  # fmt: skip
FINISH_REASONS: dict[str, FinishReason] = {
    "STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length", **dict.fromkeys(FILTERED, "content_filter"),
}  # fmt: skip


def answer(request: ChatRequest, sent: UpstreamRequest, reply: UpstreamReply) -> Answer:
    """A whole answer. Raises Failed."""
    stream = Stream(request, sent, reply.headers)
    deltas = stream.read(json_object(reply.body))
    if stream.finish is None:
        raise Failed(UpstreamError("the provider's answer has no end"), retries=1)
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    text = "".join(delta.get("content", "") for delta in deltas)
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    if reasoning := "".join(delta.get("reasoning", "") for delta in deltas):
        message["reasoning"] = reasoning
    if calls:
        message["tool_calls"] = [{name: call[name] for name in call if name != "index"} for call in calls]
    return Answer(message, stream.finish, stream.usage, stream.upstream_id)


class Stream:
    """Reads one streamed answer."""

    def __init__(self, request: ChatRequest, sent: UpstreamRequest, _: Mapping[str, str]) -> None:
        self.finish: Finish | None = None
        self.upstream_id: str | None = None
        self._shown = request.shows_reasoning
        self._started = False
        self._calls = 0
        self._writes_cache = sent.writes_cache
        self._usage: dict[str, Any] = {}

    @property
    def usage(self) -> Usage:
        """The last non-empty value of every count."""
        return usage(self._usage, writes_cache=self._writes_cache)

    def feed(self, event: Event) -> list[Delta]:
        """The deltas of one event. Raises Failed for an error object."""
        return self.read(json_object(event.data))

    def read(self, data: dict[str, Any]) -> list[Delta]:
        """The deltas of one response object."""
        if error := data.get("error"):
            raise read_error(error)
        self.upstream_id = data.get("responseId") or self.upstream_id
        self._usage |= {name: value for name, value in (data.get("usageMetadata") or {}).items() if value}
        deltas: list[Delta] = []
        for candidate in (data.get("candidates") or [])[:1]:
            for part in (candidate.get("content") or {}).get("parts") or []:
                deltas += self._delta(part)
            self._end(candidate.get("finishReason"))
        if blocked := (data.get("promptFeedback") or {}).get("blockReason"):
            self.finish = Finish("content_filter", blocked)
        return deltas

    def _delta(self, part: dict[str, Any]) -> list[Delta]:
        if "functionCall" in part:
            self._started = True
            self._calls += 1
            return [{"tool_calls": [tool_call(self._calls - 1, part)]}]
        if not (text := part.get("text")):
            return []
        if part.get("thought"):
            return [{"reasoning": text}] if self._shown else []
        self._started = True
        return [{"content": text}]

    def _end(self, native: str | None) -> None:
        """STOP stands for calls, too. A reason that is a failure fails the call unless something was already sent."""
        if native is None:
            return
        reason = "content_filter" if native.startswith("IMAGE_") else FINISH_REASONS.get(native)
        if reason is None and not self._started:
            raise Failed(UpstreamError(f"the provider gave no answer: {native}"), retries=1)
        if self._calls and reason in {"stop", None}:
            reason = "tool_calls"
        self.finish = Finish(reason or "stop", native)
