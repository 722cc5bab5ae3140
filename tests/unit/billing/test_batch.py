from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.batch import Batch, Head, Terms
from services.billing.database import Row
from services.billing.records import accept
from services.billing.tables import MAX_BALANCE_PICO
from shared.catalog import Model
from shared.events import Refused, UsageRecorded
from shared.ids import new_id
from shared.money import PICO_PER_USD, Tokens
from tests.unit.billing.events import COST_PICO, MODELS, tokens, usage, usages

TERMS = Terms(datetime.now(UTC), 1, MAX_BALANCE_PICO["sqlite"])


class Shelf:
    """Books in memory: what the database would hold after each batch."""

    def __init__(self) -> None:
        self.records: dict[str, Row] = {}
        self.entries: list[Row] = []
        self.heads = {name: Head(0, 0) for name in "abcw"}

    def post(self, events: Sequence[UsageRecorded | Refused]) -> Batch:
        batch = Batch(TERMS, self.heads, self.records)
        for event in events:
            batch.add(accept(event))
        self.records |= {row["request_id"]: row for row in batch.records}
        self.entries += batch.entries
        self.heads |= {row["workspace_id"]: Head(row["seq"], row["balance_after_pico"]) for row in batch.entries}
        return batch

    def balances(self) -> dict[str, int]:
        return {name: head.balance_pico for name, head in self.heads.items()}


@given(st.data(), st.lists(usages, max_size=12, unique_by=lambda event: event.request_id))
def test_any_order_duplication_and_splitting_of_events_gives_the_same_records_and_balances(
    data: st.DataObject, events: list[UsageRecorded]
) -> None:
    plain, shuffled = Shelf(), Shelf()
    plain.post(events)

    again = data.draw(st.lists(st.sampled_from(events), max_size=12)) if events else []
    arrived = data.draw(st.permutations(events + again))
    while arrived:
        size = data.draw(st.integers(1, len(arrived)))
        shuffled.post(arrived[:size])
        arrived = arrived[size:]

    assert shuffled.records == plain.records
    assert shuffled.balances() == plain.balances()


@given(st.lists(usages, max_size=12), st.integers(1, 5))
def test_entries_of_a_workspace_have_no_gap_and_each_balance_is_the_one_before_plus_the_amount(
    events: list[UsageRecorded], size: int
) -> None:
    shelf = Shelf()
    for start in range(0, len(events), size):
        shelf.post(events[start : start + size])

    for name in "abc":
        entries = [entry for entry in shelf.entries if entry["workspace_id"] == name]
        assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
        running = 0
        for entry in entries:
            running += entry["amount_pico"]
            assert entry["balance_after_pico"] == running
        assert shelf.heads[name].balance_pico == running


@given(st.sampled_from(MODELS), tokens)
def test_a_record_recomputes_to_its_own_cost_and_to_the_price_list_in_exact_fractions(
    model: Model, used: Tokens
) -> None:
    (record,) = Shelf().post([usage(tokens=used, rates=model.rates)]).records

    buckets = ("input", "cache_read", "cache_write", "cache_write_1h", "output")
    own = sum(Fraction(record[f"{name}_tokens"]) * Fraction(record[f"{name}_rate_pico"]) for name in buckets)
    prices = model.price
    read, write = prices.cache_read or prices.input, prices.cache_write or prices.input
    usd = (
        used.input * Fraction(prices.input)
        + used.cache_read * Fraction(read)
        + used.cache_write * Fraction(write)
        + used.cache_write_1h * 2 * Fraction(prices.input)
        + used.output * Fraction(prices.output)
    ) / 10**6
    assert record["cost_pico"] == own == usd * PICO_PER_USD


@given(usages)
def test_no_amount_or_balance_is_ever_a_float(event: UsageRecorded) -> None:
    batch = Shelf().post([event])
    for row in batch.records + batch.entries:
        assert not [name for name, value in row.items() if isinstance(value, float)]


def test_a_second_record_with_other_content_is_kept_aside_and_changes_no_balance() -> None:
    shelf = Shelf()
    first = usage()
    second = usage(request_id=first.request_id, tokens=Tokens(output=1))
    batch = shelf.post([first, second])
    assert batch.results == {"recorded": 1, "conflict": 1}
    assert shelf.post([second]).results == {"conflict": 1}
    assert shelf.balances()["w"] == -COST_PICO
    assert batch.conflicts[0]["request_id"] == first.request_id


def test_an_answer_that_costs_nothing_is_on_record_without_an_entry() -> None:
    batch = Shelf().post([usage(outcome="upstream_interrupted")])
    assert [record["output_tokens"] for record in batch.records] == [418]
    assert batch.entries == []


def test_one_bad_event_among_good_ones_is_quarantined_alone() -> None:
    batch = Shelf().post([usage(), usage(cost_pico_usd="1"), usage("nobody"), Refused(b"{}", "unknown"), usage()])
    assert batch.results == {"recorded": 2, "quarantined": 3}
    assert [row["reason"] for row in batch.quarantine] == [
        "cost_pico_usd is 1, but outcome, tokens and rates make 1444000000",
        "unknown workspace 'nobody'",
        "unknown",
    ]


def test_usage_that_would_pass_what_the_database_can_hold_is_quarantined_and_the_books_go_on() -> None:
    shelf = Shelf()
    shelf.heads["w"] = Head(1, -MAX_BALANCE_PICO["sqlite"])
    batch = shelf.post([usage(), usage("a")])
    assert batch.results == {"quarantined": 1, "recorded": 1}
    assert "more than this database can hold" in batch.quarantine[0]["reason"]
    assert shelf.heads["w"].seq == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"request_id": "42"}, "request_id is not a UUID"),
        ({"request_id": new_id().upper()}, "request_id is not a UUID"),
        ({"cost_pico_usd": "9" * 5000}, "cost_pico_usd is larger than"),
        ({"outcome": "worker_lost", "cost_pico_usd": "1444000000"}, "make 0"),
        ({"tokens": Tokens(input=2**62), "rates": MODELS[0].rates}, "is larger than"),
        ({"duration_ms": 2**63}, "duration_ms is larger than"),
        ({"key_id": "k" * 501}, "key_id is longer than"),
        ({"upstream_model": "a\0b"}, "upstream_model is longer than 300 characters, or contains a NUL"),
        ({"started_at": "yesterday"}, "started_at: Invalid isoformat string"),
        ({"started_at": "2026-01-31T12:00:00"}, "started_at has no time zone"),
        ({"started_at": "0001-01-01T00:00:00+14:00"}, "started_at: "),
    ],
)
def test_an_event_that_no_row_can_hold_is_quarantined_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    (row,) = Shelf().post([usage(**changes)]).quarantine
    assert reason in row["reason"]
    assert row["body"]


def test_provider_usage_nested_too_deep_to_be_written_is_quarantined_not_fatal() -> None:
    nested: list[Any] = []
    for _ in range(300):
        nested = [nested]
    (row,) = Shelf().post([usage(upstream_usage={"x": nested})]).quarantine
    assert "not writable as JSON" in row["reason"]


def test_the_same_usage_object_in_another_member_order_is_a_duplicate() -> None:
    first = usage(upstream_usage={"a": 1, "b": 2})
    second = first.model_copy(update={"upstream_usage": {"b": 2, "a": 1}})
    assert Shelf().post([first, second]).results == {"recorded": 1, "duplicate": 1}
