"""A circuit breaker per supplier: one that keeps failing is left alone for a while, then tried by one request."""

from time import monotonic

FAILURES = 5  # in a row: fewer would open on a provider's ordinary hiccups
OPEN_S = 10.0  # long enough for an overload to pass, short enough that recovery is noticed


class Breaker:
    """Counts failures in a row. Closed: all may pass. Open: none. After OPEN_S: one, whose outcome decides."""

    def __init__(self) -> None:
        self._failures = 0
        self._open_until = 0.0

    def admits(self) -> bool:
        """Whether a request may try this supplier now; the first one after a pause is the trial."""
        if self._failures < FAILURES:
            return True
        if monotonic() < self._open_until:
            return False
        self._open_until = monotonic() + OPEN_S
        return True

    @property
    def retry_after_s(self) -> float:
        """When a trial is allowed at the latest."""
        return max(0.0, self._open_until - monotonic()) if self._failures >= FAILURES else 0.0

    def succeeded(self) -> None:
        """An answer began, or the supplier refused for a reason that lies in the request."""
        self._failures = 0

    def failed(self) -> None:
        """The supplier did not answer, or said that it cannot."""
        self._failures += 1
        if self._failures >= FAILURES:
            self._open_until = monotonic() + OPEN_S
