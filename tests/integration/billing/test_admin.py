"""The admin API: what is changed, by whom, what is refused, and what is announced."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Engine

from services.billing.accounts import Changed
from services.billing.admin_log import ACTOR_HEADER
from services.billing.ledger import Ledger
from services.billing.records import checked
from services.billing.review import LISTED_BODY_BYTES
from shared.bus import Message
from tests.integration.billing.service import ADMIN, AUDITOR, Service, running
from tests.unit.billing.events import usage

LIMITS = {
    "expires_at": "2100-01-01T00:00:00.000000Z",
    "spend_limit_usd": "12.5",
    "limit_reset": "weekly",
    "requests_per_minute": 60,
    "tokens_per_minute": 100_000,
}


REFUSED: list[tuple[Any, str]] = [
    ({}, "nothing to change: give one or more of"),
    ({"colour": "red"}, 'unknown member "colour"'),
    ({"secret": "another-secret"}, 'unknown member "secret"'),
    ({"revoked_at": None}, 'unknown member "revoked_at"'),
    ({"label": None}, "label: Input should be a valid string"),
    ({"label": ""}, "label: String should have at least 1 character"),
    ({"requests_per_minute": 0}, "requests_per_minute: Input should be greater than or equal to 1"),
    ({"requests_per_minute": 1_000_001}, "requests_per_minute: Input should be less than or equal to 1000000"),
    ({"requests_per_minute": "60"}, "requests_per_minute: Input should be a valid integer"),
    ({"requests_per_minute": True}, "requests_per_minute: Input should be a valid integer"),
    ({"tokens_per_minute": 2**70}, "tokens_per_minute: Input should be less than or equal to 10000000000"),
    ({"spend_limit_usd": "9000000.000000000001"}, "spend_limit_usd: it must be 9,000,000 USD at most"),
    ({"spend_limit_usd": "9999999"}, "spend_limit_usd: it must be 9,000,000 USD at most"),
    ({"spend_limit_usd": "-1"}, "spend_limit_usd: write it as a decimal string of USD"),
    ({"spend_limit_usd": 5}, "spend_limit_usd: write it as a decimal string of USD"),
    ({"expires_at": "tomorrow"}, "expires_at: write it as an RFC 3339 time"),
]


class Announced(list[Changed]):
    """Remembers what was announced."""

    async def __call__(self, changed: Changed) -> None:
        self.append(changed)


@pytest.fixture
def announced() -> Announced:
    return Announced()


@pytest_asyncio.fixture
async def service(engine: Engine, announced: Announced) -> AsyncIterator[Service]:
    url = engine.url.render_as_string(hide_password=False)
    async with running(url, announce=announced, bootstrap_key="a-key-of-any-form") as service:
        yield service


async def patch(service: Service, path: str, body: Any, status: int = 200) -> Any:
    found, answer = await service.call("PATCH", path, body)
    assert found == status, answer
    return answer


async def make_key(service: Service, **members: Any) -> Any:
    return await service.post("/admin/workspaces/demo/keys", {"label": "app", **members})


async def test_a_key_is_made_with_all_of_its_limits_and_shown_with_them(service: Service) -> None:
    made = await make_key(service, **LIMITS)
    assert {name: made[name] for name in LIMITS} == LIMITS
    del made["secret"]
    assert await service.get(f"/admin/keys/{made['key_id']}") == made


async def test_of_a_key_only_what_is_sent_changes_and_null_takes_a_limit_away(service: Service) -> None:
    made = await make_key(service, **LIMITS)
    path = f"/admin/keys/{made['key_id']}"
    del made["secret"]
    for change in (
        {"label": "renamed"},
        {"requests_per_minute": 1, "spend_limit_usd": "0"},
        {"limit_reset": None, "tokens_per_minute": None},
        dict.fromkeys(LIMITS),
    ):
        made |= change
        assert await patch(service, path, change) == made
    assert await service.get(path) == made


async def test_a_workspace_is_renamed_and_made_strict_one_at_a_time(service: Service) -> None:
    before = await service.get("/admin/workspaces/demo")
    assert await patch(service, "/admin/workspaces/demo", {"name": "Cafe\u0301"}) == before | {"name": "Café"}
    assert await patch(service, "/admin/workspaces/demo", {"strict": True}) == before | {"name": "Café", "strict": True}
    assert (await service.get("/admin/workspaces"))["data"] == [await service.get("/admin/workspaces/demo")]


async def test_a_change_that_is_not_within_its_bounds_is_refused_and_changes_nothing(
    service: Service, announced: Announced
) -> None:
    made = await make_key(service)
    announced.clear()
    for body, said in REFUSED:
        error = (await patch(service, f"/admin/keys/{made['key_id']}", body, 400))["error"]
        assert error["message"].startswith(said)
    assert made == await service.get(f"/admin/keys/{made['key_id']}") | {"secret": made["secret"]}
    assert announced == []


async def test_what_is_changed_is_announced_once_it_is_committed_and_nothing_else_is(
    service: Service, announced: Announced
) -> None:
    await service.post("/admin/workspaces", {"name": "Acme", "id": "acme"})
    key_id = (await make_key(service))["key_id"]
    await patch(service, f"/admin/keys/{key_id}", {"label": "x"})
    await patch(service, "/admin/workspaces/demo", {"strict": True})
    await service.call("DELETE", f"/admin/keys/{key_id}")
    await service.post("/admin/workspaces/demo/credits", {"amount_usd": "1", "reference": "p"})
    whole, key = Changed("demo"), Changed("demo", key_id)
    assert announced == [Changed("acme"), key, key, whole, key, whole]
    await service.get("/admin/workspaces")
    await patch(service, "/admin/keys/nobody", {"label": "x"}, 404)
    await service.post("/admin/workspaces/demo/credits", {"amount_usd": "0", "reference": "q"}, 400)
    assert len(announced) == 6


async def test_a_revocation_whose_caller_left_is_announced_all_the_same(engine: Engine) -> None:
    committed, going_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slowly(changed: Changed) -> None:
        committed.set()
        await going_on.wait()
        done.set()

    url = engine.url.render_as_string(hide_password=False)
    async with asyncio.timeout(30), running(url, announce=slowly, bootstrap_key="a-key-of-any-form") as service:
        call = asyncio.create_task(service.call("PATCH", "/admin/workspaces/demo", {"strict": True}))
        await committed.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert (await service.get("/v1/workspaces/demo/balance"))["seq"] == 1  # the service has seen the caller leave
        going_on.set()
        await done.wait()


async def test_who_calls_is_named_in_the_log_and_in_the_entry(service: Service) -> None:
    await service.post("/admin/workspaces/demo/credits", {"amount_usd": "1", "reference": "p"})
    for name, status in (("ann@example.com", 201), ("Zoë", 201), ("n" * 64, 201), ("n" * 65, 400), ("a\tb", 400)):
        headers = {"Authorization": f"Bearer {ADMIN}", ACTOR_HEADER: name}
        body = {"amount_usd": "1", "reference": name}
        path = "/admin/workspaces/demo/credits"
        async with service.client.post(path, headers=headers, json=body) as answer:
            assert answer.status == status, await answer.text()
    named = ["admin", "admin:ann@example.com", "admin:Zoë", "admin:" + "n" * 64]
    entries = (await service.get("/v1/workspaces/demo/entries"))["data"]
    assert [entry["actor"] for entry in entries] == ["bootstrap", *named]
    assert [call["actor"] for call in (await service.get("/admin/log"))["data"]] == named


async def test_the_log_is_read_in_order_by_page_workspace_and_time_and_reading_it_adds_nothing(
    service: Service,
) -> None:
    await service.post("/admin/workspaces", {"name": "Acme", "id": "acme"})
    key_id = (await make_key(service, secret="a-secret-of-ours"))["key_id"]
    await patch(service, f"/admin/keys/{key_id}", {"label": "x"})
    await patch(service, "/admin/workspaces/acme", {"strict": True})
    calls = (await service.get("/admin/log"))["data"]
    assert [(call["method"], call["workspace_id"], call["body"]) for call in calls] == [
        ("POST", None, '{"name":"Acme","id":"acme"}'),
        ("POST", "demo", '{"label":"app","secret":"…"}'),
        ("PATCH", "demo", '{"label":"x"}'),
        ("PATCH", "acme", '{"strict":true}'),
    ]

    async def found(query: str, cursor: str = "") -> list[Any]:
        status, page = await service.call("GET", f"/admin/log?{query}{cursor}", token=AUDITOR)
        assert status == 200
        more = await found(query, f"&cursor={page['next_cursor']}") if page["has_more"] else []
        return page["data"] + more

    assert await found("limit=1") == await found("limit=3") == calls
    assert await found("workspace_id=demo&limit=1") == calls[1:3]
    assert await found(f"from={calls[2]['recorded_at']}") == calls[2:]
    assert await found(f"to={calls[2]['recorded_at']}&workspace_id=demo") == calls[1:2]


async def test_what_was_set_aside_is_listed_with_its_reason_and_shown_whole(service: Service) -> None:
    first = usage("demo")
    second = first.model_copy(update={"duration_ms": 7, "upstream_request_id": "r" * 300})
    await service.publish(first, second, usage("nobody"), usage("demo", cost_pico_usd="1"))
    listed = (await service.get("/admin/quarantine"))["data"]
    assert [kept["reason"] for kept in listed] == [
        "unknown workspace 'nobody'",
        "cost_pico_usd is 1, but outcome, tokens and rates make 1444000000",
    ]
    page = await service.get("/admin/quarantine?limit=1")
    assert page["data"] + (await service.get(f"/admin/quarantine?cursor={page['next_cursor']}"))["data"] == listed

    (conflict,) = (await service.get("/admin/conflicts"))["data"]
    assert conflict["request_id"] == first.request_id
    assert len(conflict["body"]) == LISTED_BODY_BYTES < conflict["body_bytes"]
    whole = await service.get(f"/admin/conflicts/{conflict['digest']}")
    assert len(whole["body"]) == conflict["body_bytes"]
    assert whole["differs"] == {
        "duration_ms": {"stands": 1200, "came": 7},
        "upstream_request_id": {"stands": "upstream-1", "came": "r" * 300},
    }


async def test_what_was_no_text_at_all_is_still_shown(service: Service, engine: Engine) -> None:
    Ledger(engine).book(checked([Message(b"\xff{")]))
    (kept,) = (await service.get("/admin/quarantine"))["data"]
    assert kept["body"] == "\\xff{"
    assert await service.get(f"/admin/quarantine/{kept['digest']}") == kept
