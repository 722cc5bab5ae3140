"""Rate limits: never more than promised in any window, never less than is free, and OpenAI's headers to tell so."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge import rates
from services.edge.accounts import Standing
from services.edge.rates import MINUTE_NS, Bucket, Rates, duration
from shared.errors import RequestRateExceeded, TokenRateExceeded
from tests.unit.edge.running import standing

SECOND_NS = 10**9
limits = st.integers(1, 10**9)
pauses = st.integers(0, 3 * MINUTE_NS) | st.sampled_from([0, 1])


@dataclass
class Clock:
    """Time that passes when it is told to."""

    now_ns: int = 123_456_789

    def __call__(self) -> int:
        return self.now_ns


def key(name: str = "k", **limits: int | None) -> Standing:
    return replace(Standing.of(standing(**limits)), key_id=name)


@given(limit=limits, steps=st.lists(st.tuples(pauses, st.floats(0, 1.5)), max_size=20))
def test_no_window_ever_sees_more_than_the_limit_and_what_drained_meanwhile(limit: int, steps: Any) -> None:
    now_ns, admitted = 0, list[tuple[int, int]]()
    bucket = Bucket(limit, now_ns)
    for pause_ns, share in steps:
        now_ns, amount = now_ns + pause_ns, min(limit, int(limit * share))
        bucket.move(limit, now_ns)
        wait_ns = bucket.wait_ns(amount)
        assert (wait_ns == 0) == (amount <= bucket.left)
        if wait_ns == 0:
            bucket.take(amount)
            admitted.append((now_ns, amount))
    for first, (start_ns, _) in enumerate(admitted):
        for last in range(first, len(admitted)):
            end_ns, inside = admitted[last][0], sum(amount for _, amount in admitted[first : last + 1])
            assert inside * MINUTE_NS <= limit * MINUTE_NS + limit * (end_ns - start_ns)


@given(limit=limits, used=st.integers(0, 3 * 10**9), share=st.floats(0, 1))
def test_who_waits_as_long_as_told_is_let_in_and_no_nanosecond_sooner(limit: int, used: int, share: float) -> None:
    amount, bucket = int(limit * share), Bucket(limit, 0)
    bucket.take(used)
    if wait_ns := bucket.wait_ns(amount):
        bucket.move(limit, wait_ns - 1)
        assert bucket.wait_ns(amount)
        bucket.move(limit, wait_ns)
    assert not bucket.wait_ns(amount)
    bucket.move(limit, bucket.at_ns + bucket.reset_ns)
    assert (bucket.left, bucket.reset_ns) == (limit, 0)


@given(edges=st.integers(1, 8), limit=st.integers(8, 1000))
def test_all_edges_together_let_in_no_more_than_the_limit_at_once(edges: int, limit: int) -> None:
    let_in = 0
    for _ in range(edges):
        at_edge = Rates(Clock())
        for _ in range(limit):
            try:
                at_edge.admit(key(requests_per_minute=limit), 0, edges)
            except RequestRateExceeded:
                break
            let_in += 1
    assert limit - edges < let_in <= limit


def test_a_key_without_limits_is_never_refused_and_told_nothing() -> None:
    unlimited = Rates(Clock())
    assert all(not unlimited.admit(key(), 10**9).headers for _ in range(1000))


def test_the_headers_are_openais_and_each_limit_is_told_only_where_it_is_set() -> None:
    clock = Clock()
    limited = Rates(clock)
    first = limited.admit(key(requests_per_minute=60, tokens_per_minute=6000), 36)
    assert first.headers == {
        "x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000", "x-ratelimit-remaining-tokens": "5964", "x-ratelimit-reset-tokens": "360ms",
    }  # fmt: skip
    clock.now_ns += 10 * SECOND_NS
    assert limited.admit(key(tokens_per_minute=6000), 0).headers == {
        "x-ratelimit-limit-tokens": "6000", "x-ratelimit-remaining-tokens": "6000", "x-ratelimit-reset-tokens": "0s",
    }  # fmt: skip
    shared = Rates(clock).admit(key(requests_per_minute=60), 0, edges=4).headers
    assert (shared["x-ratelimit-limit-requests"], shared["x-ratelimit-remaining-requests"]) == ("60", "14")


def test_a_refusal_takes_nothing_and_says_what_is_exceeded_and_how_long_to_wait() -> None:
    clock = Clock()
    limited, mine = Rates(clock), key(requests_per_minute=2, tokens_per_minute=600)
    limited.admit(mine, 500)
    with pytest.raises(TokenRateExceeded) as tokens:
        limited.admit(mine, 101)
    assert (tokens.value.status, tokens.value.type, tokens.value.code) == (429, "tokens", "rate_limit_exceeded")
    assert (tokens.value.headers["Retry-After"], tokens.value.headers["retry-after-ms"]) == ("1", "100")
    assert tokens.value.headers["x-ratelimit-remaining-requests"] == "1"
    limited.admit(mine, 100)
    with pytest.raises(RequestRateExceeded) as requests:
        limited.admit(mine, 0)
    assert (requests.value.type, requests.value.code) == ("requests", "rate_limit_exceeded")
    assert (requests.value.headers["Retry-After"], requests.value.headers["retry-after-ms"]) == ("30", "30000")
    clock.now_ns += 30 * SECOND_NS
    limited.admit(mine, 100)
    assert limited.admit(key("another", requests_per_minute=1), 0).headers["x-ratelimit-remaining-requests"] == "0"


def test_who_is_over_both_limits_is_told_the_longer_wait() -> None:
    limited, mine = Rates(Clock()), key(requests_per_minute=1, tokens_per_minute=600)
    limited.admit(mine, 0).settle(1200)
    with pytest.raises(TokenRateExceeded) as refused:
        limited.admit(mine, 600)
    assert (refused.value.headers["Retry-After"], refused.value.headers["retry-after-ms"]) == ("120", "120000")


def test_an_estimate_is_put_right_by_what_was_used_either_way() -> None:
    clock = Clock()
    limited, mine = Rates(clock), key(tokens_per_minute=600)
    limited.admit(mine, 500).settle(20)
    assert limited.admit(mine, 580).headers["x-ratelimit-remaining-tokens"] == "0"
    clock.now_ns += MINUTE_NS
    limited.admit(mine, 1).settle(1200)
    with pytest.raises(TokenRateExceeded) as owed:
        limited.admit(mine, 1)
    assert owed.value.headers["x-ratelimit-reset-tokens"] == "2m0s"
    assert owed.value.headers["retry-after-ms"] == "60100"


def test_a_request_larger_than_the_whole_limit_waits_for_a_full_bucket_and_not_for_ever() -> None:
    limited, mine = Rates(Clock()), key(tokens_per_minute=600)
    assert limited.admit(mine, 64_000).headers["x-ratelimit-remaining-tokens"] == "0"


def test_a_limit_that_changes_holds_at_once_and_forgives_nothing() -> None:
    clock = Clock()
    limited = Rates(clock)
    for _ in range(10):
        limited.admit(key(requests_per_minute=10), 0)
    clock.now_ns += 6 * SECOND_NS  # in which one of the ten drains
    assert limited.admit(key(requests_per_minute=1000), 0).headers["x-ratelimit-remaining-requests"] == "990"
    with pytest.raises(RequestRateExceeded):
        limited.admit(key(requests_per_minute=5), 0)


def test_the_longest_unused_keys_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST_KEYS", 2)
    limited = Rates(Clock())
    for name in ("a", "b", "a", "c"):
        limited.admit(key(name, requests_per_minute=2), 0)
    with pytest.raises(RequestRateExceeded):
        limited.admit(key("a", requests_per_minute=2), 0)
    assert limited.admit(key("b", requests_per_minute=2), 0).headers["x-ratelimit-remaining-requests"] == "1"


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"), (1, "1ms"), (20 * 10**6, "20ms"), (999_000_001, "1s"), (SECOND_NS, "1s"),
        (8_640 * 10**6, "8.64s"), (59_999_999_999, "1m0s"), (360 * SECOND_NS, "6m0s"), (61_500 * 10**6, "1m1.5s"),
    ],
)  # fmt: skip
def test_durations_are_written_as_openai_writes_them(ns: int, text: str) -> None:
    assert duration(ns) == text
