"""Events survive the bus whole; whatever else lies in a message is kept and named, never dropped."""

import collections
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events import Encoded, Refused, UsageRecorded, batch, decode, queue_of, routing_key, shard_of, utc_text
from shared.money import Rates, Tokens, cost_pico
from tests.unit.shared.events import BILLED, json_values, usages


@given(st.lists(usages(), max_size=4))
def test_events_come_out_of_a_message_as_they_went_in(events: list[UsageRecorded]) -> None:
    assert decode(batch(Encoded.of(event, "worker/x").body for event in events)) == events


@given(usages())
def test_an_event_is_a_cloud_event_whose_id_is_the_requests(event: UsageRecorded) -> None:
    cloud = orjson.loads(Encoded.of(event, "worker/x").body)
    assert (cloud["specversion"], cloud["type"]) == ("1.0", "opentoken.usage.recorded.v1")
    assert (cloud["id"], cloud["subject"]) == (event.request_id, event.workspace_id)
    assert cloud["source"] == "/opentoken/worker/x"


@given(usages())
def test_what_is_owed_follows_from_the_record_alone(event: UsageRecorded) -> None:
    exact = cost_pico(Tokens(**event.tokens.model_dump()), Rates(**event.rates_pico_usd_per_token.model_dump()))
    assert event.owed == (exact if event.outcome in BILLED else 0) == event.cost


@given(usages(), st.integers(1, 10**18))
def test_a_cost_that_is_not_what_is_owed_can_be_seen(event: UsageRecorded, more: int) -> None:
    claimed = event.model_copy(update={"cost_pico_usd": str(event.cost + more)})
    (decoded,) = decode(batch([Encoded.of(claimed, "x").body]))
    assert isinstance(decoded, UsageRecorded)
    assert decoded.cost - decoded.owed == more


@given(usages(), st.lists(json_values, max_size=4), st.data())
def test_what_is_no_event_is_refused_whole_and_costs_its_neighbours_nothing(
    event: UsageRecorded, strangers: list[Any], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(strangers)))
    parts = [orjson.dumps(one) for one in strangers]
    parts.insert(place, Encoded.of(event, "x").body)
    decoded = decode(batch(parts))
    assert decoded[place] == event
    for part, one in zip(parts, decoded, strict=True):
        assert one == event or (isinstance(one, Refused) and one.body == part and one.reason)


@given(usages(), st.data())
def test_an_event_with_one_member_missing_or_broken_is_refused_by_its_name(
    event: UsageRecorded, data: st.DataObject
) -> None:
    cloud = orjson.loads(Encoded.of(event, "x").body)
    required = [name for name, field in UsageRecorded.model_fields.items() if field.is_required()]
    name = data.draw(st.sampled_from(required))
    if data.draw(st.booleans()):
        del cloud["data"][name]
    else:
        cloud["data"][name] = {"surprise": 1} if name != "upstream_usage" else 3
    (refused,) = decode(batch([orjson.dumps(cloud)]))
    assert isinstance(refused, Refused)
    assert name in refused.reason
    assert orjson.loads(refused.body) == cloud


@given(usages(), st.dictionaries(st.text(min_size=30), json_values, max_size=3))
def test_a_member_of_a_later_version_is_no_reason_to_refuse(event: UsageRecorded, more: dict[str, Any]) -> None:
    cloud = orjson.loads(Encoded.of(event, "x").body)
    cloud["data"] |= more
    assert decode(batch([orjson.dumps(cloud)])) == [event]


@given(usages())
def test_another_major_version_is_another_type(event: UsageRecorded) -> None:
    body = Encoded.of(event, "x").body.replace(b"recorded.v1", b"recorded.v2")
    (refused,) = decode(batch([body]))
    assert isinstance(refused, Refused)
    assert "opentoken.usage.recorded.v2" in refused.reason


@given(st.binary())
def test_any_bytes_are_kept_whole_where_they_are_no_batch(message: bytes) -> None:
    for one in decode(message):
        assert isinstance(one, Refused)
        assert one.reason


def test_nesting_deeper_than_can_be_written_again_is_kept_as_it_came() -> None:
    for deep in (b"[" * 600 + b"]" * 600, b'{"type":' + b"[" * 900 + b"]" * 900 + b"}"):
        (refused,) = called_at_depth(150, batch([deep]))
        assert isinstance(refused, Refused)
        assert deep in refused.body


def called_at_depth(frames: int, message: bytes) -> list[UsageRecorded | Refused]:
    return called_at_depth(frames - 1, message) if frames else decode(message)


@given(st.text(), st.integers(1, 256))
def test_a_workspace_has_one_shard_of_those_there_are(workspace_id: str, shards: int) -> None:
    assert 0 <= shard_of(workspace_id, shards) < shards


def test_shards_are_the_same_for_ever_and_evenly_filled() -> None:
    known = {"demo": 132, "acme": 160, "워크": 208}
    assert {name: shard_of(name, 256) for name in known} == known
    filled = collections.Counter(shard_of(f"workspace-{number}", 8) for number in range(4000))
    assert set(filled) == set(range(8))
    assert max(filled.values()) < 1.25 * min(filled.values())


def test_each_shard_has_a_key_and_a_queue_of_its_own() -> None:
    assert (routing_key(3), queue_of(3)) == ("usage.v1.3", "billing.usage.3")


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(70, 1, 2, 3, 4, 5, 6, UTC), "0070-01-02T03:04:05.000006Z"),
        (datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1))), "2026-01-31T12:00:00.000000Z"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_a_moment_has_one_text_in_utc_with_six_digits_whatever_its_year(moment: datetime, text: str) -> None:
    assert utc_text(moment) == text
