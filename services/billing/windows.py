"""The windows of spend limits: calendar windows in UTC: the day, the ISO week from Monday, the month.

Spend counts in the window in which it reached the books; nothing is ever reset.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

LimitReset = Literal["daily", "weekly", "monthly"]


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` up to `end`, which belongs to the next window."""

    start: datetime
    end: datetime


def window(limit_reset: LimitReset | None, now: datetime) -> Window | None:
    """The window that holds `now`; None where the limit is for the key's lifetime."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match limit_reset:
        case "daily":
            return Window(day, day + timedelta(days=1))
        case "weekly":
            monday = day - timedelta(days=day.weekday())
            return Window(monday, monday + timedelta(days=7))
        case "monthly":
            first = day.replace(day=1)
            return Window(first, (first + timedelta(days=31)).replace(day=1))
        case None:
            return None
