"""What a provider's folder is given, and what it returns: the whole answer as bytes, with the faults already in it.

So the providers do no I/O, and `delivery` knows nothing of their wires.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from services.simulator.directives import Directives
from shared.money import Tokens

Outcome = Literal["completed", "refused", "failed", "truncated", "client_left"]
"""refused: any status but 200; failed: an error inside the stream; truncated: an end without a finish."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came in.

    `id` is unique, `seed` a digest of the body; `attempt` counts how often this very request came, from 1.
    """

    id: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    seed: bytes
    attempt: Callable[[], int]


class Frame(NamedTuple):
    """Bytes that belong together (an event, or a whole body), and the output tokens generated once they are sent."""

    data: bytes
    output: int = 0


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed answer before any fault: what comes first, the chunks of the answer, its end; `failure` breaks it."""

    opening: list[Frame]
    chunks: list[Frame]
    closing: list[Frame]
    failure: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent after the head. `length` is what the head promises, None for a stream.

    `cut`: the connection is closed after the last frame, before the body has ended.
    """

    frames: list[Frame]
    outcome: Outcome = "completed"
    length: int | None = None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """An answer to deliver. `tokens` are what all of it costs, `reported` whether the answer itself tells."""

    status: int
    headers: Mapping[str, str]
    body: Body
    seed: bytes
    upstream_request_id: str
    response_id: str | None = None
    model: str | None = None
    tokens: Tokens | None = None
    reported: bool = False
    directives: Directives = Directives()  # noqa: RUF009 - frozen

    def tokens_after(self, frames: int) -> Tokens | None:
        """What was counted once so many frames had been sent; nothing before the first."""
        if self.tokens is None or frames == 0:
            return None
        output = self.body.frames[frames - 1].output
        return replace(self.tokens, output=output, reasoning=min(self.tokens.reasoning, output))


def streamed(stream: Stream, directives: Directives) -> Body:
    """The stream, broken off where the directives say."""
    places = directives.midstream_error, directives.truncate, directives.eof
    place = next((place for place in places if place is not None), None)
    if place is None:
        return Body(stream.opening + stream.chunks + stream.closing)
    sent = stream.opening + stream.chunks[:place]
    output = sent[-1].output if sent else 0
    if directives.midstream_error is not None:
        return Body([*sent, Frame(stream.failure, output)], "failed")
    if directives.truncate is not None:
        torn = (stream.chunks[place:] + stream.closing)[0].data
        return Body([*sent, Frame(torn[: len(torn) // 2], output)], "truncated", cut=True)
    return Body(sent, "truncated")


def whole(frame: Frame, directives: Directives) -> Body:
    """A buffered body; `truncate` breaks the connection in its middle, `eof` ends it there as if that were all."""
    size = len(frame.data)
    if directives.truncate is None and directives.eof is None:
        return Body([frame], length=size)
    half = frame._replace(data=frame.data[: size // 2])
    cut = directives.truncate is not None
    return Body([half], "truncated", length=size if cut else size // 2, cut=cut)
