import hashlib
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing import merkle, tables
from services.billing.leaves import COLUMNS, Kind, LeafError, leaf, read

VECTORS = orjson.loads(Path(__file__).with_name("leaves.json").read_bytes())
TABLES = {"usage/1": tables.usage_record, "entry/1": tables.ledger_entry}

words = st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: unicodedata.normalize("NFC", text))
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": words,
    "integer": st.integers(-(10**38), 10**38),
    "moment": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=zones),  # noqa: DTZ001 - the zone is drawn
    "boolean": st.booleans(),
}


def rows(kind: Kind) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: st.none() | VALUES[type_] for name, type_ in COLUMNS[kind].items()})


kinds: st.SearchStrategy[Kind] = st.sampled_from(["usage/1", "entry/1"])
leaves = kinds.flatmap(lambda kind: st.tuples(st.just(kind), rows(kind)))


def row_of(vector: dict[str, Any]) -> dict[str, Any]:
    types = COLUMNS[vector["kind"]]
    read_as: dict[str, Callable[[Any], Any]] = {"integer": int, "moment": datetime.fromisoformat}
    return {
        name: value if value is None else read_as.get(types[name], lambda as_it_is: as_it_is)(value)
        for name, value in vector["row"].items()
    }


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["about"])
def test_the_leaf_of_a_published_row_is_the_published_bytes_and_reads_back(vector: dict[str, Any]) -> None:
    row = row_of(vector)
    made = leaf(vector["kind"], row)
    assert made.decode() == vector["leaf"]
    assert merkle.leaf_hash(made).hex() == vector["leaf_hash"] == hashlib.sha256(b"\0" + made).hexdigest()
    assert read(made) == (vector["kind"], row)


def test_at_least_twenty_rows_are_published_and_none_twice() -> None:
    assert len({vector["leaf"] for vector in VECTORS}) == len(VECTORS) >= 20


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_leaf_holds_every_column_of_its_table_but_its_place_in_the_tree(kind: Kind) -> None:
    assert {"leaf_index", *COLUMNS[kind]} == set(TABLES[kind].c.keys())


@given(leaves)
def test_every_row_reads_back_from_its_leaf_and_makes_the_same_bytes_again(given: tuple[Kind, dict[str, Any]]) -> None:
    kind, row = given
    made = leaf(kind, row)
    assert read(made) == (kind, row)
    assert leaf(*read(made)) == made == leaf(kind, dict(reversed(row.items())))


@given(leaves)
def test_a_leaf_is_sorted_json_without_white_space_and_without_any_number(given: tuple[Kind, dict[str, Any]]) -> None:
    made = leaf(*given)
    members = orjson.loads(made)
    assert orjson.dumps(members, option=orjson.OPT_SORT_KEYS) == made
    assert not [value for value in members.values() if type(value) in {int, float}]


@given(leaves, leaves)
def test_two_rows_that_differ_have_leaves_that_differ(one: tuple[Kind, Any], other: tuple[Kind, Any]) -> None:
    assert (leaf(*one) == leaf(*other)) == (one == other)


@pytest.mark.parametrize(
    "changes",
    [
        {"amount_pico": 1.0},
        {"amount_pico": True},
        {"seq": "1"},
        {"reason": "Cafe\u0301"},  # not NFC
        {"reason": "\ud800"},  # no character
        {"reason": 5},
        {"recorded_at": datetime(2026, 1, 31)},  # noqa: DTZ001 - it is the mistake
        {"recorded_at": "2026-01-31T00:00:00.000000Z"},
    ],
)
def test_a_value_that_has_no_one_form_is_refused(changes: dict[str, Any]) -> None:
    row = dict.fromkeys(COLUMNS["entry/1"]) | {"recorded_at": datetime(2026, 1, 31, tzinfo=UTC)}
    assert leaf("entry/1", row)
    with pytest.raises(LeafError):
        leaf("entry/1", row | changes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"k":"entry/1"', b'"k":"entry/2"'),
        (b'"k":"entry/1"', b'"k":["entry/1"]'),
        (b'"seq":"3"', b'"seq":3'),
        (b'"seq":"3"', b'"seq":"03"'),
        (b'"seq":"3"', b'"seq":"x"'),
        (b'"seq":"3"', b'"seq":"3","seq":"3"'),
        (b'"seq":"3"', b'"seq": "3"'),
        (b',"seq":"3"', b""),
        (b'.000000Z"', b'Z"'),
        (b"{", b""),
        (b"{", b"[{"),
    ],
)
def test_bytes_that_only_resemble_a_leaf_are_not_read_as_one(old: bytes, new: bytes) -> None:
    row = dict.fromkeys(COLUMNS["entry/1"]) | {"seq": 3, "recorded_at": datetime(2026, 1, 31, tzinfo=UTC)}
    made = leaf("entry/1", row)
    assert old in made
    with pytest.raises(LeafError):
        read(made.replace(old, new))
