"""The books against a provider's report: every difference is found, and classed."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from services.billing.database import reading
from services.billing.ledger import Ledger
from services.billing.reconcile import ROUNDING_PICO, Line, reconcile
from services.billing.reports import ReportError, read
from shared.events import UsageRecorded
from shared.money import Tokens, cost_pico, usd
from tests.unit.billing.events import GEMINI, MODELS, usage
from tests.unit.billing.reports import bucket, counted, lines, page, priced, sku

DAY, NEXT = "2026-01-31", "2026-02-01"
SONNET = next(model for model in MODELS if model.id == "anthropic/claude-sonnet-4-6")
USED = Tokens(input=1000, cache_read=200, cache_write=30, cache_write_1h=4, output=500)
INPUT = "Generate content input token count gemini 3 flash preview text"
OUTPUT = "Generate content output token count gemini 3 flash preview text"
CACHED = "Generate content cached input token count gemini 3 flash text"


def sonnet(**changes: Any) -> UsageRecorded:
    named: dict[str, Any] = {"provider": SONNET.provider, "model": SONNET.id, "upstream_model": SONNET.upstream}
    return usage(tokens=USED, rates=SONNET.rates, **named | changes)


def reported(times: int = 1, **more: int) -> dict[str, object]:
    result = counted(SONNET.upstream, 1000, 500, read=200, write=30, hour=4)
    scaled = {name: value * times if type(value) is int else value for name, value in result.items()}
    return scaled | {"cache_creation": {name: n * times for name, n in result["cache_creation"].items()}} | more


@pytest.fixture
def compare(engine: Engine, ledger: Ledger) -> Callable[..., list[Line]]:
    """Compares the books with reports."""

    def compared(*texts: str, provider: str | None = None) -> list[Line]:
        with reading(engine) as connection:
            return list(reconcile(connection, read(*texts), provider))

    return compared


def classes(found: list[Line]) -> list[tuple[str, ...]]:
    return [(line.found, *line.key) for line in found]


def test_what_the_provider_counted_and_we_booked_is_matched(compare: Callable[..., list[Line]], ledger: Ledger) -> None:
    ledger.record([sonnet(), sonnet(), usage()])
    found = compare(page(bucket(DAY, reported(times=2))))
    assert classes(found) == [("matched", DAY, SONNET.id)], "and another provider's usage is not missed"


def test_an_answer_that_was_free_for_the_client_still_counts_against_the_provider(
    compare: Callable[..., list[Line]], ledger: Ledger
) -> None:
    ledger.record([sonnet(outcome="upstream_interrupted")])
    cents = usd(100 * cost_pico(USED, SONNET.rates))
    found = compare(page(bucket(DAY, reported())), page(bucket(DAY, priced(SONNET.upstream, cents))))
    assert classes(found) == [("matched", DAY, SONNET.id)]


def test_usage_that_only_one_side_knows_is_missing_or_extra(compare: Callable[..., list[Line]], ledger: Ledger) -> None:
    ledger.record([sonnet(), sonnet(started_at="2026-02-01T08:00:00Z"), sonnet(started_at="2026-02-03T08:00:00Z")])
    report = page(bucket(DAY, reported(), counted("claude-other", 1, 1)), bucket(NEXT))
    assert classes(compare(report)) == [
        ("matched", DAY, SONNET.id),
        ("extra", DAY, "claude-other"),
        ("missing", NEXT, SONNET.id),
    ], "and a day that the report does not cover is not missed"


@pytest.mark.parametrize("name", ["uncached_input_tokens", "cache_read_input_tokens", "output_tokens"])
def test_one_token_more_or_less_differs(compare: Callable[..., list[Line]], ledger: Ledger, name: str) -> None:
    ledger.record([sonnet()])
    one_more = {name: int(str(reported()[name])) + 1}
    assert classes(compare(page(bucket(DAY, reported(**one_more))))) == [("differs", DAY, SONNET.id)]


def test_a_cost_differs_where_rounding_cannot_explain_it(compare: Callable[..., list[Line]], ledger: Ledger) -> None:
    ledger.record([sonnet()])
    exact = cost_pico(USED, SONNET.rates)
    for difference, expected in ((0, "matched"), (ROUNDING_PICO, "matched"), (ROUNDING_PICO + 1, "differs")):
        (line,) = compare(page(bucket(DAY, priced(SONNET.upstream, usd(100 * (exact + difference))))))
        assert line.found == expected


def test_a_billing_exports_rows_add_up_to_the_requests_behind_them(
    compare: Callable[..., list[Line]], ledger: Ledger
) -> None:
    ledger.record([usage(), usage()])
    rates = GEMINI.rates
    rows = [
        sku(DAY, INPUT, "504", usd(504 * rates.input)),
        sku(DAY, CACHED, "2560", usd(2560 * rates.cache_read)),
        sku(DAY, OUTPUT, "836", usd(836 * rates.output)),
    ]
    assert classes(compare(lines(*rows))) == [("matched", DAY, GEMINI.id)]
    assert classes(compare(lines(*rows[:2]))) == [("differs", DAY, GEMINI.id)]


def test_a_day_that_a_billing_export_or_a_request_log_leaves_out_is_missing(
    compare: Callable[..., list[Line]], ledger: Ledger
) -> None:
    ledger.record([usage(started_at=f"{day}T12:00:00Z", upstream_request_id=day) for day in (DAY, NEXT, "2026-02-02")])
    skus = ((INPUT, "252"), (CACHED, "1280"), (OUTPUT, "418"))
    export = [sku(day, name, amount, "0") for day in (DAY, "2026-02-02") for name, amount in skus]
    assert [line.key for line in compare(lines(*export)) if line.found == "missing"] == [(NEXT, GEMINI.id)]
    log = [logged(day) | {"started_at": f"{day}T12:00:00Z"} for day in (DAY, "2026-02-02")]
    assert classes(compare(lines(*log))) == [("matched", DAY), ("missing", NEXT), ("matched", "2026-02-02")]


def test_where_the_report_has_request_ids_it_is_compared_request_by_request(
    compare: Callable[..., list[Line]], ledger: Ledger
) -> None:
    ledger.record([usage(upstream_request_id=id_) for id_ in ("one", "two", None)])
    nameless = [line.key[0] for line in compare(lines(logged("one")), provider="google") if len(line.key[0]) == 36]
    found = compare(lines(logged("one"), logged("three"), logged("two") | {"output_tokens": 1}))
    assert sorted(classes(found)) == sorted(
        [("matched", "one"), ("differs", "two"), ("extra", "three"), ("missing", nameless[0])]
    )


def logged(id_: str) -> dict[str, object]:
    counts = {"input_tokens": 252, "cache_read_tokens": 1280, "output_tokens": 418}
    return {"upstream_request_id": id_, "started_at": f"{DAY}T12:00:00Z", "model": GEMINI.upstream, **counts}


def test_a_report_of_models_that_were_never_used_asks_whose_it_is(
    compare: Callable[..., list[Line]], ledger: Ledger
) -> None:
    ledger.record([sonnet()])
    stranger = page(bucket(DAY, counted("stranger", 1, 1)))
    with pytest.raises(ReportError, match="--provider"):
        compare(stranger)
    assert classes(compare(stranger, provider=SONNET.provider)) == [
        ("missing", DAY, SONNET.id),
        ("extra", DAY, "stranger"),
    ]


def test_a_report_of_an_unknown_provider_or_of_no_day_is_not_compared(
    compare: Callable[..., list[Line]], ledger: Ledger
) -> None:
    ledger.record([sonnet()])
    with pytest.raises(ReportError, match=r"no provider 'antropic': known are anthropic, "):
        compare(page(bucket(DAY)), provider="antropic")
    with pytest.raises(ReportError, match="covers no day"):
        compare(page(), provider=SONNET.provider)


def test_a_record_moved_between_days_by_another_text_of_its_time_is_refused_not_counted(
    compare: Callable[..., list[Line]], ledger: Ledger, engine: Engine
) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL compares moments, not texts")
    ledger.record([event := sonnet()])
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER usage_record_no_update")
        connection.exec_driver_sql("UPDATE usage_record SET started_at = replace(started_at, 'Z', '+00:00')")
    with pytest.raises(ReportError, match=f"a time that is none, of request {event.request_id}"):
        compare(page(bucket(DAY, reported())))
