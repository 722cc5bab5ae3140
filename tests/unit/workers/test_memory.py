"""What a worker remembers has an end, in number and in time."""

import pytest

from services.workers import memory
from services.workers.memory import BoundedMemory


def test_a_value_is_kept_until_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(memory, "monotonic", lambda: now)
    kept = BoundedMemory()
    kept.put("a", 1, ttl_s=10)
    assert (kept.get("a"), kept.left_s("a")) == (1, 10)
    now = 109.9
    assert kept.get("a") == 1
    now = 110.0
    assert (kept.get("a"), kept.left_s("a")) == (None, 0)


def test_when_it_is_full_the_longest_unused_goes() -> None:
    kept = BoundedMemory(most=2)
    kept.put("a", 1, 60)
    kept.put("b", 2, 60)
    assert kept.get("a") == 1
    kept.put("c", 3, 60)
    assert [kept.get(key) for key in "abc"] == [1, None, 3]


def test_putting_again_replaces_the_value_and_its_time() -> None:
    kept = BoundedMemory()
    kept.put("a", 1, ttl_s=0)
    kept.put("a", 2, ttl_s=60)
    assert kept.get("a") == 2
