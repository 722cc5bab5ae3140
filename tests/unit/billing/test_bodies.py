from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from services.billing.admin_bodies import MAX_CREDIT_USD, NewCredit, NewKey, NewWorkspace
from services.billing.bodies import EntriesQuery
from shared.bodies import parse
from shared.errors import InvalidRequest
from shared.money import PICO_PER_USD, usd


@given(st.integers(1, MAX_CREDIT_USD * PICO_PER_USD))
def test_every_amount_to_the_pico_dollar_is_read_exactly(amount_pico: int) -> None:
    body = f'{{"amount_usd": "{usd(amount_pico)}", "reference": "r"}}'.encode()
    assert parse(NewCredit, body).amount_usd == amount_pico


@pytest.mark.parametrize(
    "amount",
    ["12.5", '"1e5"', '"-1"', '"+1"', '"0"', '"0.000"', '"1000000.000000000001"', '"0.0000000000001"', '"NaN"',
     '""', '"1 "', '"\u0661"', "null", "true", '"1_000"'],
)  # fmt: skip
def test_an_amount_that_is_no_plain_positive_decimal_string_up_to_a_million_is_refused_by_name(amount: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(NewCredit, f'{{"amount_usd": {amount}, "reference": "r"}}'.encode())
    assert caught.value.param == "amount_usd"


@pytest.mark.parametrize(
    ("kind", "body", "param", "message"),
    [
        (NewWorkspace, b'{"name": "a"', None, "malformed JSON: EOF while parsing an object at line 1 column 12"),
        (NewWorkspace, b"[]", None, "the body must be a JSON object"),
        (NewWorkspace, b"\xff", None, "malformed JSON"),
        (NewWorkspace, b"{}", "name", 'missing member "name"'),
        (NewWorkspace, b'{"name": "a", "owner": "b"}', "owner", 'unknown member "owner"'),
        (NewWorkspace, b'{"name": "a", "strict": "yes"}', "strict", "strict: Input should be a valid boolean"),
        (NewWorkspace, b'{"name": "a", "id": "a b"}', "id", "id: String should match pattern"),
        (NewWorkspace, b'{"name": "a\\u0000"}', "name", "name: control characters are not allowed"),
        (NewKey, b'{"label": "l", "expires_at": "2027-01-31"}', "expires_at", "an RFC 3339 time with its zone"),
        (NewKey, b'{"label": "l", "expires_at": 1800000000}', "expires_at", "an RFC 3339 time with its zone"),
        (NewKey, b'{"label": "l", "limit_reset": "hourly"}', "limit_reset", "'daily', 'weekly' or 'monthly'"),
        (NewKey, b'{"label": "l", "secret": "with a space"}', "secret", "secret: String should match pattern"),
        (EntriesQuery, {"limit": "1001"}, "limit", "limit: Input should be less than or equal to 1000"),
        (EntriesQuery, {"from": "then"}, "from", "from: write it as an RFC 3339 time"),
        (EntriesQuery, {"from": "2026-W47-1T00:00:00Z"}, "from", "from: write it as an RFC 3339 time"),
        (EntriesQuery, {"from": "20260131T000000Z"}, "from", "from: write it as an RFC 3339 time"),
        (EntriesQuery, {"from": "2026-01-31T00:00:00"}, "from", "from: write it as an RFC 3339 time"),
        (EntriesQuery, {"contra": "gift"}, "contra", "contra: Input should be 'revenue'"),
    ],
)  # fmt: skip
def test_a_refused_body_or_query_names_the_member_and_what_is_wrong_with_it(
    kind: Any, body: Any, param: str | None, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(kind, body)
    assert caught.value.param == param
    assert message in caught.value.message


def test_a_parameter_that_is_given_twice_is_refused_by_name_whatever_its_values() -> None:
    for second in ("promo", "cash", "zzz"):
        with pytest.raises(InvalidRequest, match="contra: give it once") as caught:
            parse(EntriesQuery, MultiDict([("contra", "cash"), ("limit", "1"), ("contra", second)]))
        assert caught.value.param == "contra"
