from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.windows import Window, window

moments = st.datetimes(timezones=st.just(UTC)).filter(lambda moment: 1 < moment.year < 9999)
KINDS = ("daily", "weekly", "monthly")


def bounded(kind: Any, now: datetime) -> Window:
    found = window(kind, now)
    assert found is not None
    return found


@given(st.sampled_from(KINDS), moments)
def test_every_moment_lies_in_its_window_and_the_next_window_begins_where_it_ends(kind: Any, now: Any) -> None:
    current = bounded(kind, now)
    assert current.start <= now < current.end
    assert bounded(kind, current.end).start == current.end
    assert window(kind, current.end - timedelta(microseconds=1)) == current


@pytest.mark.parametrize(
    ("kind", "now", "start", "end"),
    [
        ("daily", "2026-02-28T23:59:59Z", "2026-02-28", "2026-03-01"),
        ("weekly", "2027-01-01T00:00:00Z", "2026-12-28", "2027-01-04"),
        ("monthly", "2026-12-31T12:00:00Z", "2026-12-01", "2027-01-01"),
        ("monthly", "2028-02-29T12:00:00Z", "2028-02-01", "2028-03-01"),
    ],
)
def test_windows_are_the_calendars_of_utc_with_weeks_from_monday(kind: Any, now: Any, start: str, end: str) -> None:
    current = bounded(kind, datetime.fromisoformat(now))
    assert (f"{current.start:%Y-%m-%d}", f"{current.end:%Y-%m-%d}") == (start, end)


def test_a_moment_of_another_time_zone_counts_in_utc() -> None:
    kiritimati = timezone(timedelta(hours=14))
    assert bounded("daily", datetime(2026, 1, 2, 1, tzinfo=kiritimati)).start == datetime(2026, 1, 1, tzinfo=UTC)


def test_without_a_reset_a_limit_counts_over_the_whole_life_of_the_key() -> None:
    assert window(None, datetime.now(UTC)) is None
