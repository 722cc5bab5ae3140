"""What answers usually cost to requests that set no `max_tokens`: what such a request holds, once some have been seen.

The longest answer that a model can give costs a hundred times what most do. To hold that for each request would refuse
clients who have nearly all of their credit; to guess would let the first rush of long answers pass a spent balance by
many requests. So a workspace's first answers of a model hold the most; then what the latest of them suggest is held,
until one is longer. A `strict` workspace holds the most, always; with `max_tokens` that is the request's own word.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

SEEN = 3  # answers before any guess: a burst of new requests waits for the first ones, and they take seconds
TIMES = 4  # the most that one of the latest cost: answers to like requests differ, but seldom by more
WINDOW = 64  # answers, and as many before them, are the latest
MOST = 10_000  # workspaces and models that an edge remembers: some 2 MB


@dataclass(slots=True)
class Usual:
    """The latest answers of one model to one workspace; amounts are those of the output alone, in pico-dollars."""

    workspace_id: str
    model: str
    _seen: int = 0
    _most: tuple[int, int] = field(default=(0, 0))  # of the window before, and of this one

    def seen(self, output_pico: int) -> None:
        """An answer has cost so much."""
        before, now = self._most
        self._most = (now, output_pico) if self._seen % WINDOW == 0 else (before, max(now, output_pico))
        self._seen += 1

    def of(self, most_pico: int) -> int:
        """What to hold of the most that an answer can cost."""
        return most_pico if self._seen < SEEN else min(most_pico, TIMES * max(self._most))


Usuals = Callable[[str, str], Usual]
"""The one of a workspace and a model."""
