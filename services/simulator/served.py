"""The served log: what this provider says it answered and counted, for the books to be compared with."""

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from services.simulator.script import Outcome
from shared.money import Tokens

MAX_SERVED = 20_000  # about 10 MB; what falls off is counted, and still in the file


@dataclass(frozen=True, slots=True)
class Served:
    """One request, by the id that the provider bills it by: Anthropic's `request-id` header, Google's `responseId`.

    `tokens` is what the provider would bill for what it sent, None where that is nothing; `reported` is whether the
    answer carried counts. `status` is None where not even a head was sent. Times are RFC 3339.
    """

    number: int
    provider: str
    operation: str
    model: str | None
    upstream_request_id: str
    response_id: str | None
    streamed: bool
    status: int | None
    outcome: Outcome
    tokens: Tokens | None
    reported: bool
    started_at: str
    ended_at: str


class ServedLog:
    """The newest entries in memory, and all of them in a file of JSON lines if one is given."""

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: whoever compares the books reads the file while we run, and a line is one write.
        self._file = path.open("ab", buffering=0) if path else None
        self._entries: deque[Served] = deque(maxlen=MAX_SERVED)
        self._dropped = 0

    def add(self, entry: Served) -> None:
        """Keep an entry."""
        self._dropped += len(self._entries) == MAX_SERVED
        self._entries.append(entry)
        if self._file is not None:
            self._file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))

    def since(self, number: int) -> dict[str, Any]:
        """The entries in memory after that number, in the order of their ends, and how many fell off."""
        return {"served": [entry for entry in self._entries if entry.number > number], "dropped": self._dropped}

    def clear(self) -> None:
        """Forget the entries in memory."""
        self._entries.clear()
        self._dropped = 0

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
