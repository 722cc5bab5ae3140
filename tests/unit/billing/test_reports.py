import json

import pytest

from services.billing.reports import Charge, ReportError, read
from services.billing.skus import bucket_of, name_of, same_name
from tests.unit.billing.reports import bucket, counted, lines, page, priced, sku

DAY, NEXT = "2026-01-31", "2026-02-01"
ZERO = {"input": 0, "cache_read": 0, "cache_write": 0, "cache_write_1h": 0, "output": 0}


def test_a_usage_report_gives_the_counts_of_each_day_and_model_by_bucket() -> None:
    text = page(bucket(DAY, counted("claude-sonnet-4-6", 1500, 500, read=200, write=400, hour=1000)), bucket(NEXT))
    report = read(text)
    tokens = {"input": 1500, "cache_read": 200, "cache_write": 400, "cache_write_1h": 1000, "output": 500}
    assert report.charges == [Charge(DAY, "claude-sonnet-4-6", tokens)]
    assert report.days == {DAY, NEXT}, "a day without usage is covered all the same"


def test_a_cost_report_is_in_cents_and_is_read_digit_by_digit() -> None:
    report = read(page(bucket(DAY, priced("claude-sonnet-4-6", "123.78912"), priced(None, "1", "Web search"))))
    assert report.charges == [
        Charge(DAY, "claude-sonnet-4-6", None, 1_237_891_200_000),
        Charge(DAY, "Web search", None, 10_000_000_000),
    ]


def test_pages_may_come_in_one_file_or_in_a_list() -> None:
    pages = [page(bucket(DAY, counted("m", 1, 1)), more=True), page(bucket(NEXT, counted("m", 1, 1)))]
    assert read("\n".join(pages)) == read(f"[{','.join(pages)}]")
    assert len(read("\n".join(pages)).charges) == 2


def test_pages_may_come_in_files_of_their_own_and_in_any_order() -> None:
    first, second = page(bucket(DAY, counted("m", 1, 1)), more=True), page(bucket(NEXT))
    assert read(first, second) == read(second, first) == read(first + second)


@pytest.mark.parametrize(
    "other", [page(bucket(NEXT, priced("m", "1"))), page(bucket("2026-01-30", counted("m", 1, 1)))]
)
def test_a_page_that_is_not_the_last_is_not_completed_by_another_reports_page(other: str) -> None:
    with pytest.raises(ReportError, match="fetch the next page"):
        read(page(bucket(DAY, counted("m", 1, 1)), more=True), other)


def test_every_day_from_the_first_to_the_last_row_is_covered_whichever_service_it_is_of() -> None:
    compute = {"service": {"description": "Compute Engine"}}
    export = lines(
        sku("2026-01-30", "N1 Predefined Instance Core", "3600", "9", **compute),
        sku(DAY, "Generate content input token count gemini 3 flash text", "1", "0"),
        sku("2026-02-02", "N1 Predefined Instance Core", "3600", "9", **compute),
    )
    assert read(export).days == {"2026-01-30", DAY, NEXT, "2026-02-02"}
    log = {"upstream_request_id": "req_1", "started_at": f"{DAY}T10:00:00Z", "model": "m"}
    assert read(lines(log), lines(log | {"started_at": "2026-02-02T10:00:00Z"})).days == {DAY, NEXT, "2026-02-02"}


def test_a_billing_export_gives_tokens_by_kind_and_costs_by_sku() -> None:
    rows = [
        sku(DAY, "Generate content input token count gemini 2.5 pro short input text", "103131", "0.1289"),
        sku(DAY, "Generate content output token count gemini 3.1 flash lite preview text", "34356", "0.051534"),
        sku(DAY, "Grounding with Google Search", "3", "0.1"),
        sku(DAY, "N1 Predefined Instance Core", "3600", "9", service={"description": "Compute Engine"}),
        sku(NEXT, None, "0", "7.5", cost_type="tax"),  # type: ignore[arg-type]
    ]
    expected = [
        Charge(DAY, "gemini 2.5 pro", ZERO | {"input": 103131}, 128_900_000_000),
        Charge(DAY, "gemini 3.1 flash lite", ZERO | {"output": 34356}, 51_534_000_000),
        Charge(DAY, "Grounding with Google Search", None, 100_000_000_000),
        Charge(NEXT, "tax", None, 7_500_000_000_000),
    ]
    assert read(lines(*rows)).charges == expected
    header = "service.description,sku.description,usage_start_time,cost,currency,cost_type,usage.amount,usage.unit"
    table = [
        ",".join(
            str(value or "")
            for value in (
                row["service"]["description"], row["sku"]["description"], row["usage_start_time"], row["cost"],
                row["currency"], row["cost_type"], row["usage"]["amount"], row["usage"]["unit"],
            )
        )
        for row in rows
    ]  # fmt: skip
    assert read("\n".join([header, *table])).charges == expected
    assert read("\n".join([header.replace(".", "_"), *table])).charges == expected


def test_a_time_of_another_zone_counts_on_its_day_in_utc() -> None:
    row = sku(DAY, "Generate content input token count gemini 3 flash text", "1", "0")
    assert read(lines(row | {"usage_start_time": "2026-01-31T23:30:00-08:00"})).days == {NEXT}


def test_a_request_log_goes_down_to_the_providers_own_request_ids() -> None:
    row = {"upstream_request_id": "req_1", "started_at": f"{DAY}T10:00:00Z", "model": "m", "cost_usd": "0.5"}
    assert read(lines(row)).charges == [Charge(DAY, "m", None, 5 * 10**11, "req_1")]
    counts = {"input_tokens": 3, "output_tokens": 4}
    assert read(lines(row | counts)).charges[0].tokens == ZERO | {"input": 3, "output": 4}


@pytest.mark.parametrize(
    ("description", "bucket", "name"),
    [
        ("Generate content input token count gemini 2.5 flash lite short input text", "input", "gemini 2.5 flash lite"),
        ("Generate content output token count Gemini 2.5 Pro short output text", "output", "gemini 2.5 pro"),
        ("Generate content output token count gemini 2.5 flash short input text", "output", "gemini 2.5 flash"),
        ("Generate content cached input token count gemini 2.5 flash input image", "cache_read", "gemini 2.5 flash"),
        ("Generate content input token count gemini 3.7 flash image flex caching", "cache_read", "gemini 3.7 flash"),
        ("Generate content output token count gemini 3.1 flash lite preview text", "output", "gemini 3.1 flash lite"),
        ("EmbedContent input token count for gemini-embedding-2 text", "input", "gemini embedding 2"),
        ("Gemini 2.5 Pro Thinking Text Output - Predictions", "output", "gemini 2.5 pro"),
        ("Cached content storage token hours gemini 2.5 pro", None, "gemini 2.5 pro"),
        ("Grounding with Google Search", None, "Grounding with Google Search"),
    ],
)
def test_a_sku_names_its_model_and_its_kind_of_token(description: str, bucket: str | None, name: str) -> None:
    assert (bucket_of(description), name_of(description)) == (bucket, name)


def test_an_upstream_id_and_a_skus_words_are_the_same_name() -> None:
    assert same_name("gemini-3.1-pro-preview") == same_name("Gemini 3.1 Pro") == "gemini 3.1 pro"
    assert same_name("claude-sonnet-4-5-20250929") != same_name("claude-sonnet-4-6")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing in it"),
        ("{", "not of a form that is known"),
        ("[1]", "not of a form that is known"),
        ("hello", "nothing in it"),
        ("a,b\n1,2", r"known: .*data, has_more.*usage_start_time.*upstream_request_id.*; it has a, b"),
        ("upstream_request_id,model\n1,2", "has no 'started_at', which its form demands"),
        ("\x00,b\n1,2", "not of a form that is known"),
        (json.dumps({"error": {"message": "no"}}), "not of a form that is known"),
        (page(bucket(DAY), more=True), "fetch the next page"),
        (page(bucket(DAY, counted(None, 1, 1))), r"group_by\[\]=model"),
        (page(bucket(DAY, priced(None, "1", None))), r"group_by\[\]=description"),  # type: ignore[arg-type]
        (page(bucket(DAY, priced("m", "1", currency="EUR"))), "only USD"),
        (page(bucket(DAY, priced("m", "NaN"))), "not of a form that is known"),
        (page(bucket(DAY, priced("m", "one"))), "not of a form that is known"),
        (page(bucket(DAY, priced("m", "Infinity"))), "not of a form that is known: OverflowError"),
        (page(bucket(DAY, priced(5, "1"))), "5 stands where a name belongs"),  # type: ignore[arg-type]
        ("a,b\n1," + "2" * 200_000, "not of a form that is known: Error: field larger"),
        (lines(sku("31-01-2026", "input", "1", "1")), "not of a form that is known"),
    ],
)
def test_what_is_no_report_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(ReportError, match=said):
        read(text)
