"""Monthly statements: what a workspace's finance person receives."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from services.billing.keys import make_key
from services.billing.ledger import Credit, Ledger
from services.billing.signer import Signer
from services.billing.statement import Month, Statements
from shared.errors import InvalidRequest, NotFound
from shared.money import pico_usd
from tests.integration.billing.books import TEN_USD
from tests.unit.billing.events import COST_PICO, usage


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the writer's clock."""

    def set_clock(text: str) -> None:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
        stopped = type("Stopped", (), {"now": staticmethod(lambda _: moment)})
        monkeypatch.setattr("services.billing.ledger.datetime", stopped)

    return set_clock


def statement(engine: Engine, month: str, workspace_id: str = "w") -> dict[str, Any]:
    return Statements(engine).of(workspace_id, Month.of(month))


@pytest.fixture
def three_months(ledger: Ledger, at: Callable[[str], None]) -> Ledger:
    """January: 10 USD and two requests. February: nothing. March: 5 USD and one request."""
    at("2026-01-01T00:00:00")
    ledger.credit(Credit("w", TEN_USD, "payment-1", "admin"))
    ledger.credit(Credit("a", TEN_USD, "payment-1", "admin"))
    ledger.record([usage(key_id="one"), usage(key_id="one"), usage("a")])
    at("2026-01-31T23:59:59.999999")
    ledger.record([usage(key_id="two"), usage(key_id="two", outcome="upstream_failed")])
    at("2026-03-01T00:00:00")
    ledger.credit(Credit("w", pico_usd("5"), "payment-2", "admin", contra="promo"))
    ledger.record([usage(key_id="two", model="google/other")])
    return ledger


def test_a_statement_adds_up_from_the_opening_to_the_closing_balance(three_months: Ledger, engine: Engine) -> None:
    january, february, march = (statement(engine, f"2026-0{month}") for month in (1, 2, 3))
    assert january["opening_balance_pico_usd"] == "0"
    assert [(line["key_id"], line["requests"], line["amount_pico_usd"]) for line in january["usage"]] == [
        ("one", 2, str(-2 * COST_PICO)),
        ("two", 1, str(-COST_PICO)),
    ]
    assert january["usage"][0]["tokens"]["cache_read"] == 2 * 1280
    assert [(entry["reference"], entry["amount_usd"]) for entry in january["movements"]] == [("payment-1", "10")]
    assert january["closing_balance_pico_usd"] == str(TEN_USD - 3 * COST_PICO)
    assert (january["opening_seq"], january["closing_seq"]) == (0, 4)
    assert (february["usage"], february["movements"]) == ([], [])
    for before, after in ((january, february), (february, march)):
        assert after["opening_balance_pico_usd"] == before["closing_balance_pico_usd"]
    assert [entry["contra"] for entry in march["movements"]] == ["promo"]
    assert [line["model"] for line in march["usage"]] == ["google/other"]


def test_a_statement_still_adds_up_where_the_clock_went_back_over_the_end_of_a_month(
    ledger: Ledger, engine: Engine, at: Callable[[str], None]
) -> None:
    for number, text in enumerate(("2026-02-01T00:00:01", "2026-01-31T23:59:59", "2026-02-01T00:00:02")):
        at(text)
        ledger.credit(Credit("w", number + 1, f"payment-{number}", "admin"))
    january, february = statement(engine, "2026-01"), statement(engine, "2026-02")
    assert january["closing_balance_pico_usd"] == february["opening_balance_pico_usd"] == "3"
    assert february["closing_balance_pico_usd"] == "6"


def test_a_statement_carries_the_newest_signed_checkpoint(ledger: Ledger, engine: Engine, tmp_path: Path) -> None:
    assert statement(engine, "2026-01")["checkpoint"] is None
    ledger.credit(Credit("w", TEN_USD, "payment-1", "admin"))
    Signer(engine, 1, make_key(tmp_path / "key"), tmp_path / "notes").sign_all()
    assert statement(engine, "2026-01")["checkpoint"] == (tmp_path / "notes/0/latest").read_text()


def test_a_statement_says_whether_its_checkpoint_covers_its_closing_entry(
    ledger: Ledger, engine: Engine, tmp_path: Path
) -> None:
    def covered() -> tuple[object, object]:
        made = statement(engine, datetime.now(UTC).strftime("%Y-%m"))
        return made["closing_leaf_index"], made["checkpoint_covers_closing"]

    signer = Signer(engine, 1, make_key(tmp_path / "key"), tmp_path / "notes")
    assert covered() == (None, False)
    for number in range(2):
        ledger.credit(Credit("w", TEN_USD, f"payment-{number}", "admin"))
        assert covered() == (number, False)
        signer.sign_all()
        assert covered() == (number, True)


def test_a_month_that_goes_on_says_that_it_is_not_complete(ledger: Ledger, engine: Engine) -> None:
    assert statement(engine, datetime.now(UTC).strftime("%Y-%m"))["complete"] is False
    assert statement(engine, "2026-01")["complete"] is True


@pytest.mark.parametrize(
    "text", ["2026", "2026-13", "2026-00", "january", "9999-12", "0000-01", "", "2026-1", "٢٠٢٦-01"]
)
def test_what_is_no_month_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(InvalidRequest, match="2026-01"):
        Month.of(text)


def test_nobody_has_no_statement(engine: Engine) -> None:
    with pytest.raises(NotFound):
        statement(engine, "2026-01", "nobody")


def test_an_entry_moved_between_months_by_another_text_of_its_time_is_refused_not_counted(
    three_months: Ledger, engine: Engine
) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL compares moments, not texts")
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER ledger_entry_no_update")
        moved = "SET recorded_at = '2026-02-01T00:59:59.999999+01:00' WHERE recorded_at LIKE '2026-01-31%'"
        assert connection.exec_driver_sql(f"UPDATE ledger_entry {moved}").rowcount == 1
    for month in ("2026-01", "2026-02"):
        with pytest.raises(ValueError, match="is not how a moment is written"):
            statement(engine, month)
