"""Golden exchanges: what a client sends, what goes upstream, what comes back, and what stands on the books.

Each is a JSON file with, where an answer is streamed, the bytes of both streams beside it. Streams are compared by
what they say, not by where they are cut.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.sse import Decoder

HERE = Path(__file__).parent
VOLATILE = {"id", "created"}


@dataclass(frozen=True)
class Exchange:
    """One golden."""

    path: Path
    content: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.stem}"

    @property
    def request(self) -> dict[str, Any]:
        return self.content["client"]["request"]

    @property
    def upstream(self) -> list[dict[str, Any]]:
        return self.content["upstream"]

    @property
    def answer(self) -> dict[str, Any]:
        return self.content["client_response"]

    @property
    def record(self) -> dict[str, Any] | None:
        return self.content["usage_record"]

    @property
    def streamed(self) -> bool:
        return "sse_file" in self.answer

    @property
    def speaks_early(self) -> bool:
        """Whether it is a stream that says anything before its end."""
        return self.streamed and self.bytes_of(self.answer).count(b'"delta":{"') > 1  # the role is one

    def bytes_of(self, response: dict[str, Any]) -> bytes:
        """The body of a response of this golden."""
        if "sse_file" in response:
            return (self.path.parent / response["sse_file"]).read_bytes()
        return json.dumps(response["body"], ensure_ascii=False).encode()


def exchanges(folder: str) -> list[Exchange]:
    """All goldens of a folder, by name."""
    return [Exchange(path, json.loads(path.read_text("utf-8"))) for path in sorted((HERE / folder).glob("*.json"))]


def said(stream: bytes) -> dict[str, Any]:
    """What a client stream says, wherever it was cut: texts joined, calls, finish, usage, error, and its order."""
    summary: dict[str, Any] = {"content": "", "reasoning": "", "tool_calls": [], "order": []}
    for kind, value in _facts(stream):
        if isinstance(value, str) and kind in {"content", "reasoning"}:
            summary[kind] += value
        elif kind == "tool_calls":
            summary[kind] += [without_made_up_ids(call) for call in value]
        else:
            summary[kind] = value
        if not summary["order"] or summary["order"][-1] != kind:
            summary["order"].append(kind)
    return summary


def _facts(stream: bytes) -> Iterator[tuple[str, Any]]:
    for event in Decoder().feed(stream):
        if event.data == "[DONE]":
            yield "done", True
            continue
        chunk = json.loads(event.data)
        if "error" in chunk:
            yield "error", chunk["error"]
            continue
        assert chunk["object"] == "chat.completion.chunk"
        yield "model", chunk["model"]
        if "usage" in chunk:
            assert chunk["choices"] == []
            yield "usage", chunk["usage"]
        for choice in chunk["choices"]:
            yield from choice["delta"].items()
            if choice["finish_reason"] is not None:
                yield "finish", choice["finish_reason"]


def comparable(body: Any) -> Any:
    """A buffered answer without what differs at every call."""
    if isinstance(body, dict):
        kept = {key: comparable(value) for key, value in body.items() if key not in VOLATILE}
        calls = [without_made_up_ids(call) for call in body.get("tool_calls", [])]
        return kept | ({"tool_calls": calls} if calls else {})
    return [comparable(item) for item in body] if isinstance(body, list) else body


def without_made_up_ids(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call whose id, where we made it up, is only known by its prefix."""
    return call | {"id": "call_ot_"} if call["id"].startswith("call_ot_") else call
