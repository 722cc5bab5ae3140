"""A clock that only a test moves."""

from datetime import UTC, datetime, timedelta


class Clock:
    """The time of day, and the steady one: at first ten seconds to midnight, and to the first of a month."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 31, 23, 59, 50, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **time: float) -> None:
        """Move on, by what a `timedelta` takes."""
        self.now += timedelta(**time)
