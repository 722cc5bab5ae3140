import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import DBAPIError

from services.billing import migrations, records
from services.billing.accounts import Accounts
from services.billing.batch import Head
from services.billing.database import connect, reading
from services.billing.errors import Conflict
from services.billing.ledger import Credit, Ledger, heads
from services.billing.migrations import SchemaError
from services.billing.records import MAX_TEXT_CHARS, checked
from services.billing.tables import ledger_entry, usage_record
from shared.bus import Message
from shared.errors import InvalidRequest, NotFound
from shared.events import Encoded, UsageRecorded, batch, shard_of
from shared.ids import new_id
from shared.money import Tokens
from tests.integration.billing.books import TEN_USD, balances, books
from tests.unit.billing.events import COST_PICO, usage, usages


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), events=st.lists(usages, min_size=1, max_size=8))
def test_any_order_duplication_and_splitting_gives_the_same_books(
    engine: Engine, ledger: Ledger, data: st.DataObject, events: list[UsageRecorded]
) -> None:
    check_any_arrival(engine, data, events)


@pytest.fixture(scope="module")
def memory() -> Iterator[Engine]:
    """Books in memory: without a disk, ten thousand examples take minutes."""
    engine = connect("sqlite://")
    migrations.upgrade(engine)
    yield engine
    engine.dispose()


@given(data=st.data(), events=st.lists(usages, min_size=1, max_size=8))
def test_any_order_duplication_and_splitting_gives_the_same_books_in_ten_thousand_examples(
    memory: Engine, data: st.DataObject, events: list[UsageRecorded]
) -> None:
    """That many under the profile `long`."""
    check_any_arrival(memory, data, events)


def check_any_arrival(engine: Engine, data: st.DataObject, events: list[UsageRecorded]) -> None:
    """Events that arrive in any order, more than once and in any batches, are each on the books once."""
    ledger, names = Ledger(engine), {name: f"{name}-{new_id()}" for name in "abc"}
    for name in names.values():
        Accounts(engine).create_workspace(name, name)
    fresh = [{"workspace_id": names[event.workspace_id], "request_id": new_id()} for event in events]
    events = [event.model_copy(update=ids) for event, ids in zip(events, fresh, strict=True)]
    arrived = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=4))))
    while arrived:
        size = data.draw(st.integers(1, len(arrived)))
        ledger.record(arrived[:size])
        arrived = arrived[size:]

    with reading(engine) as connection:
        ours = usage_record.c.workspace_id.in_(names.values())
        recorded = connection.execute(select(usage_record.c.request_id, usage_record.c.cost_pico).where(ours)).all()
        total = select(func.sum(ledger_entry.c.amount_pico)).where(ledger_entry.c.workspace_id.in_(names.values()))
        moved_pico = int(connection.execute(total).scalar_one() or 0)
    assert sorted(recorded) == sorted((event.request_id, event.owed) for event in events)
    assert sum(balances(engine, names.values()).values()) == moved_pico == -sum(event.owed for event in events)


def test_a_message_that_comes_again_after_its_commit_changes_nothing(engine: Engine, ledger: Ledger) -> None:
    """As after a crash between the commit and the acknowledgement."""
    first = usage()
    other = usage(request_id=first.request_id, tokens=Tokens(output=1))
    sent = [first, other, usage(cost_pico_usd="1"), usage("nobody"), usage(outcome="upstream_failed")]
    message = Message(batch([*(Encoded.of(event, "test").body for event in sent), b'{"type": "x"}']))
    assert ledger.book(checked([message])) == {"recorded": 2, "conflict": 1, "quarantined": 3}
    before = books(engine)
    assert {name: len(found) for name, found in before.items()} == {
        "usage_record": 2, "ledger_entry": 1, "conflict": 1, "quarantine": 3,
    }  # fmt: skip

    assert ledger.book(checked([Message(message.body, redelivered=True)])) == {
        "duplicate": 2,
        "conflict": 1,
        "quarantined": 3,
    }
    assert books(engine) == before


def test_what_comes_back_from_the_database_is_what_the_event_said(engine: Engine, ledger: Ledger) -> None:
    event = usage(tokens=Tokens(1, 2, 3, 4, 5, 5), user_digest="digest", lease_id="lease")
    ledger.record([event])
    (record,) = books(engine)["usage_record"]
    assert [record[f"{name}_tokens"] for name in ("input", "cache_read", "cache_write", "cache_write_1h")] == [
        1,
        2,
        3,
        4,
    ]
    assert record["cost_pico"] == event.cost
    assert type(record["cost_pico"]) is int
    assert record["started_at"].isoformat() == "2026-01-31T12:00:00+00:00"
    assert record["upstream_usage"] == '{"promptTokenCount":1532,"thoughtsTokenCount":192}'
    assert record["attempts"] == '[{"duration_ms":1180,"status":200,"supplier":"google"}]'
    assert record["stream"] is False
    assert record["user_digest"] == "digest"


def test_a_message_that_is_no_batch_is_kept_whole_in_quarantine(engine: Engine, ledger: Ledger) -> None:
    nested = b"[" * 300 + b"]" * 300
    assert ledger.book(checked([Message(b"\xff"), Message(b"{}"), Message(b"[" + nested + b"]")])) == {"quarantined": 3}
    kept = {row["body"] for row in books(engine)["quarantine"]}
    assert b"\xff" in kept
    assert b"{}" in kept


def test_a_row_that_the_database_refuses_is_found_and_set_aside_and_the_rest_is_booked(
    engine: Engine, ledger: Ledger
) -> None:
    """A fault that no check of ours foresees: here a rule that the database alone knows."""
    refuse = {
        "sqlite": "CREATE TRIGGER picky BEFORE INSERT ON usage_record WHEN NEW.key_id = 'poison' "
        "BEGIN SELECT RAISE(ABORT, 'picky'); END",
        "postgresql": "ALTER TABLE usage_record ADD CONSTRAINT picky CHECK (key_id <> 'poison')",
    }
    with engine.begin() as connection:
        connection.execute(text(refuse[engine.dialect.name]))
    poison = usage(key_id="poison")
    events = [usage(), usage("a"), poison, usage(), usage("b"), usage()]
    assert ledger.record(events) == {"recorded": 5, "quarantined": 1}
    (kept,) = books(engine)["quarantine"]
    assert poison.request_id.encode() in kept["body"]
    assert "picky" in kept["reason"]
    assert balances(engine, "abw") == {"a": -COST_PICO, "b": -COST_PICO, "w": -3 * COST_PICO}


def wide(characters: int) -> str:
    """Text of four bytes a character, which nothing makes smaller."""
    return "".join(map(chr, random.Random(characters).choices(range(0x20000, 0x2A6D0), k=characters)))


def test_names_as_long_as_they_may_be_are_booked(ledger: Ledger) -> None:
    """Two of them share an index, whose rows PostgreSQL bounds."""
    names = ("key_id", "lease_id", "model", "supplier", "upstream_request_id", "user_digest")
    longest: dict[str, Any] = dict.fromkeys(names, wide(MAX_TEXT_CHARS))
    assert ledger.record([usage(**longest)]) == {"recorded": 1}


def test_a_row_that_is_too_large_for_an_index_is_set_aside_and_the_rest_is_booked(
    engine: Engine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_TEXT_CHARS", 2000)
    too_long = usage(lease_id=wide(1999), key_id=wide(2000))
    fits = engine.dialect.name == "sqlite"
    expected = {"recorded": 3} if fits else {"recorded": 2, "quarantined": 1}
    assert ledger.record([usage(), too_long, usage()]) == expected


def test_a_batch_that_fails_leaves_nothing_behind_and_succeeds_when_it_comes_again(
    engine: Engine, ledger: Ledger
) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE quarantine RENAME TO quarantine_away"))
    batch_ = [usage(), usage("nobody")]
    with pytest.raises(DBAPIError):
        ledger.record(batch_)
    assert balances(engine, "w") == {"w": 0}
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE quarantine_away RENAME TO quarantine"))
    assert ledger.record(batch_) == {"recorded": 1, "quarantined": 1}


def test_two_writers_at_once_on_one_workspace_leave_no_gap_and_lose_nothing(engine: Engine, ledger: Ledger) -> None:
    """As when a hung consumer wakes up after its place was taken."""
    other = connect(engine.url.render_as_string(hide_password=False))
    events = [usage() for _ in range(60)]
    try:
        with ThreadPoolExecutor(2) as threads:
            first = threads.map(lambda event: ledger.record([event]), events)
            second = threads.map(lambda event: Ledger(other).record([event]), reversed(events))
            results = sum([*first, *second], start=ledger.record([]))
    finally:
        other.dispose()
    assert results == {"recorded": 60, "duplicate": 60}
    entries = sorted(books(engine)["ledger_entry"], key=lambda entry: entry["seq"])
    assert [entry["balance_after_pico"] for entry in entries] == [-COST_PICO * n for n in range(1, 61)]


def test_a_credit_with_the_same_reference_is_posted_once_and_gives_its_first_entry_again(
    engine: Engine, ledger: Ledger
) -> None:
    credit = Credit("w", TEN_USD, "payment-1", "admin", reason="invoice 7")
    first = ledger.credit(credit)
    assert dict(ledger.credit(credit)) == dict(first)
    assert balances(engine, "w") == {"w": TEN_USD}
    assert ledger.credit(Credit("a", TEN_USD, "payment-1", "admin"))["entry_id"] != first["entry_id"]


def test_a_reference_cannot_stand_for_a_second_different_credit(engine: Engine, ledger: Ledger) -> None:
    ledger.credit(Credit("w", TEN_USD, "payment-1", "admin"))
    with pytest.raises(Conflict):
        ledger.credit(Credit("w", TEN_USD + 1, "payment-1", "admin"))
    with pytest.raises(Conflict):
        ledger.credit(Credit("w", TEN_USD, "payment-1", "admin", contra="promo"))
    assert balances(engine, "w") == {"w": TEN_USD}


def test_a_credit_for_a_workspace_that_does_not_exist_is_refused(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        ledger.credit(Credit("nobody", TEN_USD, "payment-1", "admin"))


def test_a_balance_beyond_64_bits_is_exact_on_postgresql_and_refused_on_sqlite(engine: Engine, ledger: Ledger) -> None:
    most = 2**63 - 1
    ledger.credit(Credit("w", most, "payment-1", "admin"))
    if engine.dialect.name == "sqlite":
        with pytest.raises(InvalidRequest, match="more than this database can hold"):
            ledger.credit(Credit("w", 1, "payment-2", "admin"))
        assert balances(engine, "w") == {"w": most}
    else:
        ledger.credit(Credit("w", most, "payment-2", "admin"))
        assert balances(engine, "w") == {"w": 2 * most}


def test_usage_is_booked_on_top_of_what_another_process_posted_meanwhile(engine: Engine, ledger: Ledger) -> None:
    ledger.record([usage()])
    Ledger(engine).credit(Credit("w", TEN_USD, "payment-1", "admin"))
    ledger.record([usage()])
    with reading(engine) as connection:
        assert heads(connection, ["w"]) == {"w": Head(3, TEN_USD - 2 * COST_PICO)}


def test_a_ledger_begun_with_another_number_of_shards_is_refused(engine: Engine, ledger: Ledger) -> None:
    name = next(name for name in map(str, range(100)) if shard_of(name, 2) == 1)
    Accounts(engine).create_workspace(name, name)
    ledger.record([usage(name)])
    ledger.check_shards()
    with pytest.raises(SchemaError, match="OPENTOKEN_LEDGER_SHARDS"):
        Ledger(engine, 2).check_shards()
