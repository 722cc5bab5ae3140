"""The model that is not there: deterministic text, token counts and vectors, a pure function of the request.

The rule of counting is one token per four bytes of UTF-8, rounded up, over the whole text; the running count of a
stream obeys it at every chunk, so a stream and a whole answer agree.
"""

import base64
import hashlib
import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from services.simulator.directives import Directives, without

BYTES_PER_TOKEN = 4  # what billing's estimate assumes as well
ECHO_CHARS = 60  # enough to recognise one's own words
PIECE_CHARS = 16  # about three words a chunk, as providers stream
TOKENS_PER_CHUNK = 2  # with `chunks` alone: long enough that no chunk is empty

_FILLER = "And so it goes on, word by word, because a long answer was asked for. "
_THOUGHT = "Somebody wrote to me; I shall greet them and repeat what they said. "


@dataclass(frozen=True, slots=True)
class Generation:
    """What was generated: thoughts first, then the text in pieces; `stop` is the stop sequence that ended it."""

    thought: str
    pieces: tuple[str, ...]
    end: Literal["done", "max_tokens", "stop_sequence"]
    stop: str | None = None

    @property
    def thought_tokens(self) -> int:
        """Tokens of the thoughts."""
        return count(self.thought)

    @property
    def tokens(self) -> int:
        """Tokens of thoughts and text."""
        return self.thought_tokens + count(self.text)

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)

    @property
    def running_tokens(self) -> Iterator[int]:
        """Tokens of the text after each piece."""
        return map(_tokens, accumulate(len(piece.encode()) for piece in self.pieces))


def count(text: str) -> int:
    """Tokens of a text."""
    return _tokens(len(text.encode()))


def _tokens(size_bytes: int) -> int:
    return -(-size_bytes // BYTES_PER_TOKEN)


def compact(value: Any) -> str:
    """JSON without spaces. The standard encoder, because a client's integers may have more than 64 bits."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def reply(prompt: str) -> str:
    """A friendly sentence with the beginning of what was said."""
    said = " ".join(without(prompt).split())
    echo = said[:ECHO_CHARS] + ("…" if len(said) > ECHO_CHARS else "")
    return f"Hello! You wrote “{echo}”, and this simulated model is glad that you did. 🙂"


def thought(weight: int) -> str:
    """Thoughts of a length that grows with the effort; none for 0."""
    return _THOUGHT * weight


def signature(seed: bytes) -> str:
    """What stands where a provider signs its thoughts."""
    return base64.b64encode(b"simulated" + seed[:15]).decode()


def generate(text: str, thought: str, *, max_tokens: int, stops: Sequence[str], directives: Directives) -> Generation:
    """Say `text`, lengthened or cut as the directives want, until a stop sequence or the limit, thoughts included."""
    wanted = directives.tokens
    if wanted is None and directives.chunks is not None:
        wanted = max(count(text), directives.chunks * TOKENS_PER_CHUNK)
    if wanted is not None:
        text = _fit(text + " " + _FILLER * math.ceil(wanted * BYTES_PER_TOKEN / len(_FILLER)), wanted)
    text, stop = _until(text, stops)
    thought = _fit(thought, max_tokens)
    room = max_tokens - count(thought)
    if count(text) > room:
        return Generation(thought, _split(_fit(text, room), directives.chunks), "max_tokens")
    return Generation(thought, _split(text, directives.chunks), "stop_sequence" if stop else "done", stop)


def _fit(text: str, tokens: int) -> str:
    """The longest beginning that has at most so many tokens: exactly so many, where the text is long enough."""
    return text.encode()[: tokens * BYTES_PER_TOKEN].decode(errors="ignore")


def _until(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    found = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    if not found:
        return text, None
    at, stop = min(found)
    return text[:at], stop


def _split(text: str, chunks: int | None) -> tuple[str, ...]:
    """Even pieces, none of them empty."""
    size = len(text)
    pieces = min(chunks or math.ceil(size / PIECE_CHARS), size)
    return tuple(text[i * size // pieces : (i + 1) * size // pieces] for i in range(pieces))


def vector(text: str, dimensions: int, *, normalised: bool) -> list[float]:
    """A vector that depends on the text alone, each value in ±0.5 unless normalised to length 1."""
    digest = hashlib.shake_256(text.encode()).digest(4 * dimensions)
    values = [number / 2**32 for number in struct.unpack(f"<{dimensions}i", digest)]
    length = math.hypot(*values) if normalised else 1.0
    return [value / length for value in values]
