"""What a worker remembers between requests: bounded in number, each with an end."""

from collections import OrderedDict
from time import monotonic
from typing import Any

MOST = 10_000  # a few MB; a busy worker sees some hundred prefixes


class BoundedMemory:
    """Values by key; the longest unused go first."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._values: OrderedDict[str, tuple[Any, float]] = OrderedDict()

    def get(self, key: str) -> Any:
        """What is remembered under a key; None where nothing is."""
        if self.left_s(key) <= 0:
            self._values.pop(key, None)
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: str, value: Any, ttl_s: float) -> None:
        """Remember a value for `ttl_s` seconds at most."""
        self._values[key] = value, monotonic() + ttl_s
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    def left_s(self, key: str) -> float:
        """For how many seconds more a key is remembered; 0 where it is not."""
        _, end = self._values.get(key, (None, 0.0))
        return max(0.0, end - monotonic())
