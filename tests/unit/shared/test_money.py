"""Money is whole pico-dollars from the price list to the ledger: nothing is rounded, and no float is let in."""

from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money import MoneyError, Rates, Tokens, cost_pico, pico_per_token, pico_usd, usd
from tests.unit.shared.events import MODELS, tokens

pico = st.integers(-(10**30) + 1, 10**30 - 1)
price = st.integers(0, 10**9).map(lambda millionths: f"{millionths // 10**6}.{millionths % 10**6:06d}")
BUCKETS = ("input", "cache_read", "cache_write", "cache_write_1h", "output")


@given(pico)
def test_an_amount_written_as_usd_reads_back_as_itself(amount: int) -> None:
    assert pico_usd(usd(amount)) == amount


@given(pico)
def test_an_amount_is_written_plainly_and_exactly(amount: int) -> None:
    text = usd(amount)
    assert Fraction(text) == Fraction(amount, 10**12)
    assert not {"e", "E", "+"} & set(text)
    assert "." not in text or not text.endswith(("0", "."))
    assert text != "-0"


@given(price)
def test_a_price_is_exact_per_token(text: str) -> None:
    assert pico_per_token(text) == Fraction(text) * 10**12 / 10**6


@given(tokens, price, price, st.none() | price, st.none() | price)
def test_a_cost_is_the_exact_sum_of_what_each_bucket_costs(
    used: Tokens, into: str, out: str, cache_read: str | None, cache_write: str | None
) -> None:
    prices = {
        "input": Fraction(into),
        "cache_read": Fraction(cache_read or into),
        "cache_write": Fraction(cache_write or into),
        "cache_write_1h": 2 * Fraction(into),
        "output": Fraction(out),
    }
    exact = sum(getattr(used, name) * prices[name] / 10**6 for name in BUCKETS)
    cost = cost_pico(used, Rates.per_million(into, out, cache_read, cache_write))
    assert type(cost) is int
    assert cost == exact * 10**12
    assert Fraction(usd(cost)) == exact


@given(tokens, st.sampled_from([model.rates for model in MODELS]))
def test_reasoning_is_part_of_the_output_and_never_priced_by_itself(used: Tokens, rates: Rates) -> None:
    assert cost_pico(replace(used, reasoning=0), rates) == cost_pico(replace(used, reasoning=10**6), rates)
    assert used.prompt == used.input + used.cache_read + used.cache_write + used.cache_write_1h


@given(tokens, st.sampled_from([model.rates for model in MODELS]))
def test_flex_costs_exactly_half(used: Tokens, rates: Rates) -> None:
    assert 2 * cost_pico(used, rates.halved()) == cost_pico(used, rates)


def test_a_rate_without_a_whole_half_is_refused() -> None:
    with pytest.raises(MoneyError, match="output"):
        Rates.per_million("2", "0.000001", None, None).halved()


@given(st.floats() | st.integers() | st.none() | st.binary())
def test_nothing_but_a_string_is_an_amount(value: Any) -> None:
    for read in (pico_usd, pico_per_token):
        with pytest.raises(MoneyError):
            read(value)


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(6, 15))
def test_a_price_with_a_seventh_decimal_is_refused(whole: int, digit: int, zeros: int) -> None:
    with pytest.raises(MoneyError, match=r"(6|12) decimals"):
        pico_per_token(f"{whole}.{'0' * zeros}{digit}")


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1 ", " 1", "one", "1,5", "1.2.3", "1_000", "nan", "NaN", "sNaN",
        "inf", "-Infinity", "1e999999",
        "1e-13", "0.0000000000001", "1" * 40 + ".0000000000001", "99999999999999999999.0000000000001", "٣", "$1",
        "0x10", "1\n",
    ],
)  # fmt: skip
def test_what_is_no_exact_amount_is_refused_in_words(text: str) -> None:
    with pytest.raises(MoneyError, match="USD"):
        pico_usd(text)


@given(st.text())
def test_any_text_is_an_exact_amount_or_refused(text: str) -> None:
    try:
        amount = pico_usd(text)
    except MoneyError:
        return
    assert Fraction(text) * 10**12 == amount


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(MoneyError, match="negative"):
        pico_per_token("-1")


@pytest.mark.parametrize("name", [field.name for field in fields(Tokens)])
def test_a_negative_count_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"tokens\.{name} is -1"):
        Tokens(**{name: -1})


@pytest.mark.parametrize("count", [5.0, "5", True, None])
def test_a_count_that_is_no_whole_number_is_refused(count: Any) -> None:
    with pytest.raises(ValueError, match=r"tokens\.output is .*: a count is a whole number"):
        Tokens(output=count)
