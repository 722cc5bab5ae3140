"""An Idempotency-Key stands for one request at a time, on either database, and no request under it is billed twice."""

import asyncio
import io
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select, update

from services.billing import claims, idempotency
from services.billing.accounts import Accounts
from services.billing.database import connect, reading, writing
from services.billing.idempotency import HELD, KEPT, SETTLING, Claim, Claimed, IdempotencyKeys, state_of
from services.billing.ledger import Ledger
from services.billing.migrations.hardening import harden
from services.billing.tables import idempotency_key
from shared.ids import new_id
from shared.openai import MAX_KEPT_BYTES
from tests.integration.billing.books import books
from tests.integration.billing.service import INTERNAL, Service, running, until
from tests.unit.billing.events import usage

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ANSWER = b'{"choices": []}'
moments = st.timedeltas(timedelta(0), timedelta(hours=30))


def claim(key: str = "a", body: str = "b", **changes: Any) -> Claim:
    return replace(Claim("w", key * 64, body * 64, new_id(), stream=False), **changes)


@pytest.fixture
def keys(engine: Engine, ledger: Ledger) -> IdempotencyKeys:
    return IdempotencyKeys(engine)


def aged(engine: Engine, by: timedelta) -> None:
    """Let this time pass for all claims."""
    with writing(engine) as connection:
        connection.execute(update(idempotency_key).values(claimed_at=datetime.now(UTC) - by))


def test_of_many_claims_at_once_one_finds_the_key_free_and_all_hear_of_the_same_request(engine: Engine) -> None:
    Accounts(engine).create_workspace("w", "w")
    keys, many = IdempotencyKeys(engine), [claim() for _ in range(24)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(keys.claim, many))
    (winner,) = [one for one, told in zip(many, found, strict=True) if told.state == "free"]
    assert {told.request_id for told in found} == {winner.request_id}
    assert sorted(told.state for told in found) == ["free", *["running"] * 23]


def test_an_answer_is_given_again_until_its_day_is_over(keys: IdempotencyKeys, engine: Engine) -> None:
    first = claim()
    assert keys.claim(first) == Claimed("free", first.request_id)
    assert keys.claim(claim()) == Claimed("running", first.request_id)
    assert keys.keep(first.request_id, ANSWER)
    assert keys.claim(claim()) == Claimed("finished", first.request_id, ANSWER)
    assert keys.claim(claim(body="c")) == Claimed("other_body", first.request_id)
    assert keys.claim(claim(workspace_id="a")).state == "free"
    assert keys.claim(claim("b")).state == "free"
    aged(engine, KEPT - timedelta(minutes=1))
    assert keys.claim(claim()).state == "finished"
    aged(engine, KEPT)
    again = claim(body="c")
    assert keys.claim(again) == Claimed("free", again.request_id)
    assert keys.claim(claim(body="c")) == Claimed("running", again.request_id)


def test_a_request_that_failed_frees_its_key_and_one_that_was_billed_does_not(
    keys: IdempotencyKeys, ledger: Ledger
) -> None:
    failed, billed = claim(), claim()
    assert keys.claim(failed).state == "free"
    assert keys.release(failed.request_id)
    assert keys.claim(billed).state == "free"
    ledger.record([usage(request_id=billed.request_id)])
    assert not keys.release(billed.request_id)
    assert not keys.keep(failed.request_id, ANSWER), "a request that lost its key keeps nothing under it"
    assert keys.claim(claim()).request_id == billed.request_id


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_record_at_0_frees_the_key_and_one_with_a_cost_closes_it(
    keys: IdempotencyKeys, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    lost, billed = claim(stream=stream), claim(stream=stream)
    keys.claim(lost)
    ledger.record([usage(request_id=lost.request_id, outcome="worker_lost")])
    assert keys.claim(billed).state == "free"
    ledger.record([usage(request_id=billed.request_id)])
    if not stream:
        assert keys.claim(claim()).state == "running", "its edge may be about to keep the answer"
        monkeypatch.setattr(idempotency, "SETTLING", timedelta(0))
    assert keys.claim(claim()) == Claimed("billed", billed.request_id)


records = st.none() | st.fixed_dictionaries({"cost_pico": st.sampled_from([0, 1]), "recorded_at": st.just(NOW)})


@given(age=moments, since_record=moments, record=records, stream=st.booleans(), kept=st.booleans(), same=st.booleans())
def test_a_key_is_never_free_within_its_day_while_its_request_may_be_or_was_billed(
    age: timedelta, since_record: timedelta, record: Any, stream: bool, kept: bool, same: bool
) -> None:
    if record is not None:
        record = record | {"recorded_at": NOW - min(since_record, age)}
    found = {"claimed_at": NOW - age, "body_digest": "b", "stream": stream, "answer": ANSWER if kept else None}
    state = state_of(found, record, "b" if same else "c", NOW)
    over = age >= KEPT or (not kept and record is not None and not record["cost_pico"])
    assert (state == "free") == over
    assert over or (state == "other_body") == (not same)
    if not over and same and not kept:
        assert (state == "unknown") == (record is None and age >= HELD)
        settled = record is not None and (stream or NOW - record["recorded_at"] >= SETTLING)
        assert (state == "billed") == settled


def test_the_purge_deletes_what_is_past_its_day_in_small_steps_and_nothing_else(
    keys: IdempotencyKeys, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "PURGED_AT_ONCE", 2)
    for key in "abc":
        keys.claim(claim(key))
    aged(engine, KEPT + timedelta(seconds=1))
    keys.claim(claim("d"))
    assert [keys.purge() for _ in range(3)] == [2, 1, 0]
    with reading(engine) as connection:
        assert connection.scalars(select(idempotency_key.c.key_digest)).all() == ["d" * 64]


@pytest_asyncio.fixture
async def service(engine: Engine) -> AsyncIterator[Service]:
    Accounts(engine).create_workspace("w", "w")
    async with running(engine.url.render_as_string(hide_password=False)) as service:
        yield service


def sent(one: Claim) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Claim.__slots__}


async def call(service: Service, body: dict[str, Any], status: int = 200) -> Any:
    return await service.post("/internal/claims", body, status, INTERNAL)


async def test_a_request_whose_record_waits_in_a_spool_keeps_its_key_until_its_day_is_over_and_is_billed(
    service: Service, engine: Engine
) -> None:
    """Its client may have read the whole answer, and the broker may be away for hours."""
    first, second = claim(), claim()
    await call(service, sent(first))
    aged(engine, KEPT - timedelta(minutes=1))
    told = await call(service, sent(second))
    assert told == {"state": "unknown", "request_id": first.request_id, "answer": None}
    await service.publish(usage(request_id=first.request_id))
    found = books(engine)
    assert [entry["request_id"] for entry in found["ledger_entry"]] == [first.request_id]
    assert not found["conflict"]
    assert (await call(service, sent(second)))["request_id"] == first.request_id


async def test_an_answer_of_ten_megabytes_is_kept_and_given_again_and_no_other_body_may_be_so_large(
    service: Service,
) -> None:
    first, second = claim(), claim("b")
    await call(service, sent(first))
    await call(service, sent(second))
    largest = b'"' + b"a" * (MAX_KEPT_BYTES - 2) + b'"'
    path = f"/internal/claims/{first.request_id}/answer"
    assert (await service.call("PUT", path, io.BytesIO(largest), INTERNAL)) == (200, {"kept": True})
    assert (await call(service, sent(claim())))["answer"] == largest.decode()
    path = f"/internal/claims/{second.request_id}/answer"
    assert (await service.call("PUT", path, io.BytesIO(largest + b" "), INTERNAL))[0] == 413
    assert (await service.call("POST", "/internal/claims", io.BytesIO(largest), INTERNAL))[0] == 413


async def test_a_request_whose_answer_cannot_be_kept_is_told_to_be_billed_as_soon_as_it_is(service: Service) -> None:
    first = claim()
    await call(service, sent(first))
    assert (await service.call("DELETE", f"/internal/claims/{first.request_id}/answer", token=INTERNAL))[0] == 200
    assert (await call(service, sent(claim())))["state"] == "running"
    await service.publish(usage(request_id=first.request_id))
    assert (await call(service, sent(claim())))["state"] == "billed"


async def test_answers_past_their_day_are_purged_while_the_service_runs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "PURGE_EVERY_S", 0.01)
    Accounts(engine).create_workspace("w", "w")
    IdempotencyKeys(engine).claim(claim())
    aged(engine, KEPT + timedelta(seconds=1))

    async def empty() -> bool:
        def count() -> Any:
            with reading(engine) as connection:
                return connection.scalar(select(func.count()).select_from(idempotency_key))

        return await asyncio.to_thread(count) == 0

    async with running(engine.url.render_as_string(hide_password=False)):
        await until(empty)


async def test_a_claim_that_is_none_is_refused_by_name(service: Service) -> None:
    for wrong in ({"key_digest": "key"}, {"request_id": "1"}, {"colour": "red"}, {"stream": None}):
        told = await call(service, sent(claim()) | wrong, 400)
        assert told["error"]["param"] in wrong
    for method, path in (("PUT", "/internal/claims/1/answer"), ("DELETE", "/internal/claims/1")):
        assert (await service.call(method, path, b"{}", INTERNAL))[0] == 404
    assert (await service.call("DELETE", f"/internal/claims/{new_id()}", token=INTERNAL))[1] == {"released": False}


def test_the_writer_of_a_hardened_database_keeps_and_forgets_answers(postgres_engine: Engine) -> None:
    Accounts(postgres_engine).create_workspace("w", "w")
    harden(postgres_engine)
    url = postgres_engine.url.update_query_dict({"options": "-c role=billing_writer"})
    writer = connect(url.render_as_string(hide_password=False))
    first, keys = claim(), IdempotencyKeys(writer)
    assert keys.claim(first).state == "free"
    assert keys.keep(first.request_id, ANSWER)
    aged(writer, KEPT + timedelta(seconds=1))
    assert keys.claim(claim("b")).state == "free"
    assert keys.purge() == 1
    assert not keys.release(first.request_id)
    writer.dispose()
