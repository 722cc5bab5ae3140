from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Engine, select

from services.billing.admin_log import shown
from services.billing.database import reading, rows
from services.billing.errors import Conflict
from services.billing.ledger import Credit, Ledger
from services.billing.tables import admin_log
from shared.errors import InvalidRequest, NotFound
from shared.money import usd
from tests.integration.billing.books import TEN_USD, balances, books
from tests.integration.billing.service import Service, running
from tests.unit.billing.events import COST_PICO, usage

Refund = Callable[..., Credit]


@pytest.fixture
def refund(engine: Engine, ledger: Ledger) -> Refund:
    """Makes refunds of the one request that workspace `w` paid."""
    ledger.credit(Credit("w", TEN_USD, "payment-1", "admin"))
    ledger.record([usage()])
    debit = next(entry for entry in books(engine)["ledger_entry"] if entry["request_id"])

    def make(amount_pico: int | None = None, reference: str = "ticket-1", **changes: Any) -> Credit:
        columns = {"reverses": debit["entry_id"], "contra": "refund", "reason": "answer was cut", "actor": "ann"}
        return Credit(**{"workspace_id": "w"} | columns | changes, amount_pico=amount_pico, reference=reference)

    return make


def test_a_refund_gives_back_what_the_request_cost_and_names_what_it_reverses_why_and_who(
    engine: Engine, ledger: Ledger, refund: Refund
) -> None:
    entry = ledger.credit(refund())
    assert (entry["amount_pico"], entry["balance_after_pico"]) == (COST_PICO, TEN_USD)
    assert [entry[name] for name in ("contra", "reason", "actor", "reverses")] == [
        "refund", "answer was cut", "ann", refund().reverses,
    ]  # fmt: skip
    assert balances(engine, "w") == {"w": TEN_USD}


def test_refunds_of_one_request_are_together_never_more_than_it_cost(
    engine: Engine, ledger: Ledger, refund: Refund
) -> None:
    ledger.credit(refund(COST_PICO - 10, "ticket-1"))
    with pytest.raises(InvalidRequest, match=r"0\.00000000001 USD of that entry is left"):
        ledger.credit(refund(11, "ticket-2"))
    assert ledger.credit(refund(None, "ticket-2"))["amount_pico"] == 10
    for amount_pico in (1, None):
        with pytest.raises(InvalidRequest, match="0 USD of that entry is left"):
            ledger.credit(refund(amount_pico, "ticket-3"))
    assert balances(engine, "w") == {"w": TEN_USD}


def test_a_refund_with_the_same_reference_is_posted_once(engine: Engine, ledger: Ledger, refund: Refund) -> None:
    first = ledger.credit(refund())
    assert ledger.credit(refund()) == ledger.credit(refund(COST_PICO)) == first
    for other in (refund(1), refund(contra="adjustment"), refund(reverses=None, amount_pico=COST_PICO)):
        with pytest.raises(Conflict):
            ledger.credit(other)
    assert balances(engine, "w") == {"w": TEN_USD}


def test_all_that_is_left_under_the_reference_of_a_part_is_a_conflict_and_a_retry_of_all_is_not(
    ledger: Ledger, refund: Refund
) -> None:
    ledger.credit(refund(10, "part"))
    with pytest.raises(Conflict):
        ledger.credit(refund(None, "part"))
    rest = ledger.credit(refund(None, "rest"))
    assert rest["amount_pico"] == COST_PICO - 10
    assert ledger.credit(refund(None, "rest")) == ledger.credit(refund(COST_PICO - 10, "rest")) == rest


def test_a_payment_is_taken_back_by_the_other_sign(engine: Engine, ledger: Ledger, refund: Refund) -> None:
    payment = next(entry for entry in books(engine)["ledger_entry"] if entry["reference"])
    entry = ledger.credit(refund(TEN_USD, reverses=payment["entry_id"], reason="chargeback"))
    assert entry["amount_pico"] == -TEN_USD
    assert balances(engine, "w") == {"w": -COST_PICO}


def test_what_is_not_there_or_is_itself_a_reversal_is_not_reversed(ledger: Ledger, refund: Refund) -> None:
    done = ledger.credit(refund())
    with pytest.raises(InvalidRequest, match="post an adjustment instead"):
        ledger.credit(refund(None, "ticket-2", reverses=done["entry_id"]))
    with pytest.raises(NotFound):
        ledger.credit(refund(None, "ticket-2", workspace_id="a"))
    with pytest.raises(NotFound):
        ledger.credit(refund(None, "ticket-2", reverses="01a205e4-b94d-71fc-b8db-e57817c928bc"))


@pytest_asyncio.fixture
async def service(engine: Engine) -> AsyncIterator[Service]:
    async with running(engine.url.render_as_string(hide_password=False), bootstrap_key="any-key-at-all") as service:
        yield service


async def test_administrators_refund_and_adjust_over_http(service: Service) -> None:
    event = usage("demo")
    await service.publish(event)
    debit = (await service.get(f"/v1/generations/{event.request_id}"))["debit"]
    body = {"reverses": debit["entry_id"], "reference": "ticket-1", "reason": "answer was cut"}
    refunded = await service.post("/admin/workspaces/demo/refunds", body)
    assert refunded["amount_usd"] == usd(COST_PICO)
    assert refunded["reverses"] == debit["entry_id"]
    await service.post("/admin/workspaces/demo/refunds", body | {"reference": "ticket-2"}, 400)
    await service.post("/admin/workspaces/demo/refunds", body | {"reverses": "x"}, 400)
    for amount, status in (("-0.5", 201), ("0", 400), ("--1", 400), ("-", 400), ("-1000001", 400)):
        body = {"amount_usd": amount, "reference": "memo-1", "reason": "bank fee"}
        await service.post("/admin/workspaces/demo/adjustments", body, status)
    assert (await service.get("/v1/workspaces/demo/balance"))["balance_usd"] == "9.5"


async def test_every_call_of_an_administrator_is_on_the_log_before_it_is_carried_out_and_without_secrets(
    service: Service, engine: Engine
) -> None:
    await service.post("/admin/workspaces/demo/keys", {"label": "app", "secret": "a-secret-of-ours"})
    await service.post("/admin/workspaces/demo/credits", b"\xff", 400)
    await service.get("/admin/workspaces?limit=1")
    await service.call("POST", "/admin/workspaces", {"name": "not mine"}, token="guess")
    with reading(engine) as connection:
        calls = rows(connection, select(admin_log).order_by(admin_log.c.id))
    assert [(call["actor"], call["method"], call["path"], call["body"]) for call in calls] == [
        ("admin", "POST", "/admin/workspaces/demo/keys", '{"label":"app","secret":"…"}'),
        ("admin", "POST", "/admin/workspaces/demo/credits", ""),
        ("admin", "GET", "/admin/workspaces?limit=1", ""),
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"])
def test_a_body_that_is_no_object_is_not_kept(body: bytes) -> None:
    assert shown(body) == ""
