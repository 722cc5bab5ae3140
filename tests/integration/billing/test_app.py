from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest_asyncio
from sqlalchemy import Engine, insert

from services.billing import spend
from services.billing.accounts import digest
from services.billing.ledger import Ledger
from services.billing.records import accept
from services.billing.tables import usage_record
from shared.events import Refused
from shared.money import Tokens
from tests.integration.billing.service import ADMIN, AUDITOR, INTERNAL, Service, running
from tests.unit.billing.events import COST_PICO, usage

KEY = "a-key-of-any-form"
NO_RECORD = "01a205e4-b94d-71fc-b8db-e57817c928bc"
REFUSED = {
    "/v1/workspaces/nobody/balance": 404,
    "/v1/workspaces/nobody/usage": 404,
    "/v1/workspaces/nobody/entries": 404,
    "/v1/workspaces/a%00b/balance": 404,
    "/v1/workspaces/%F0%9F%98%80/balance": 404,
    "/v1/workspaces/demo/usage?cursor=4": 400,
    f"/v1/workspaces/demo/usage?cursor={NO_RECORD}": 400,
    "/v1/workspaces/demo/usage?limit=0": 400,
    "/v1/workspaces/demo/usage?model=%00": 400,
    "/v1/workspaces/demo/usage?to=2026-01-31": 400,
    "/v1/workspaces/demo/entries?cursor=x": 400,
    "/v1/workspaces/demo/entries?cursor=99999999999999999999": 400,
    "/v1/workspaces/demo/entries?colour=red": 400,
    "/v1/workspaces/demo/entries?contra=cash&contra=zzz": 400,
    "/v1/workspaces/demo/entries?contra=cash&contra=cash": 400,
    "/v1/export.jsonl?workspace_id=nobody": 404,
    "/v1/checkpoints/latest": 404,
    "/v1/checkpoints/7": 404,
    "/v1/checkpoints/-1": 400,
    "/v1/checkpoints/newest": 400,
    "/v1/checkpoints?shard=256": 400,
    "/v1/proofs/inclusion": 400,
    "/v1/proofs/inclusion?leaf_index=0": 404,
    "/v1/proofs/inclusion?leaf_index=99999999999999999999": 400,
    "/v1/proofs/consistency?first=x": 400,
    "/v1/proofs/consistency?first=0": 404,
    "/v1/generations/chatcmpl-42": 404,
    "/v1/statements/nobody/2026-01": 404,
    "/v1/statements/demo/2026-13": 400,
    f"/v1/generations/{NO_RECORD}": 404,
    "/admin/workspaces/nobody": 404,
    "/admin/workspaces/%ff": 404,
    "/admin/workspaces/nobody/keys": 404,
    "/admin/keys/nobody": 404,
    "/admin/log?cursor=4": 400,
    f"/admin/log?cursor={NO_RECORD}": 400,
    "/admin/log?actor=ann": 400,
    "/admin/quarantine?cursor=4": 400,
    "/admin/quarantine/4": 404,
    "/admin/conflicts?limit=0": 400,
    "/admin/conflicts/4": 404,
    "/v1/nothing": 404,
    "/internal/standing": 405,
    "/internal/leases": 405,
}
ROUTES = {
    ("GET", "/v1/workspaces/demo/balance"): {ADMIN, AUDITOR, INTERNAL},
    ("GET", "/v1/workspaces/demo/usage"): {ADMIN, AUDITOR, INTERNAL},
    ("GET", "/v1/workspaces/demo/entries"): {ADMIN, AUDITOR, INTERNAL},
    ("GET", "/v1/generations/x"): {ADMIN, AUDITOR, INTERNAL},
    ("GET", "/v1/statements/demo/2026-01"): {ADMIN, AUDITOR, INTERNAL},
    ("GET", "/v1/export.csv"): {ADMIN, AUDITOR, INTERNAL},
    ("GET", "/v1/checkpoints"): {ADMIN, AUDITOR, INTERNAL},
    ("GET", "/v1/checkpoints/latest"): {ADMIN, AUDITOR, INTERNAL},
    ("GET", "/v1/proofs/inclusion"): {ADMIN, AUDITOR, INTERNAL},
    ("GET", "/v1/proofs/consistency"): {ADMIN, AUDITOR, INTERNAL},
    ("POST", "/internal/standing"): {INTERNAL},
    ("POST", "/internal/claims"): {INTERNAL},
    ("PUT", "/internal/claims/x/answer"): {INTERNAL},
    ("DELETE", "/internal/claims/x"): {INTERNAL},
    ("POST", "/internal/leases"): {INTERNAL},
    ("POST", "/admin/workspaces"): {ADMIN},
    ("GET", "/admin/workspaces"): {ADMIN},
    ("POST", "/admin/workspaces/demo/keys"): {ADMIN},
    ("GET", "/admin/workspaces/demo/keys"): {ADMIN},
    ("GET", "/admin/workspaces/demo"): {ADMIN},
    ("PATCH", "/admin/workspaces/demo"): {ADMIN},
    ("GET", "/admin/keys/x"): {ADMIN},
    ("PATCH", "/admin/keys/x"): {ADMIN},
    ("DELETE", "/admin/keys/x"): {ADMIN},
    ("GET", "/admin/log"): {ADMIN, AUDITOR},
    ("GET", "/admin/quarantine"): {ADMIN, AUDITOR},
    ("GET", "/admin/quarantine/x"): {ADMIN, AUDITOR},
    ("GET", "/admin/conflicts"): {ADMIN, AUDITOR},
    ("GET", "/admin/conflicts/x"): {ADMIN, AUDITOR},
    ("POST", "/admin/workspaces/demo/credits"): {ADMIN},
    ("POST", "/admin/workspaces/demo/refunds"): {ADMIN},
    ("POST", "/admin/workspaces/demo/adjustments"): {ADMIN},
}


@pytest_asyncio.fixture
async def service(engine: Engine) -> AsyncIterator[Service]:
    """A service with the bootstrapped workspace `demo` and its 10 USD."""
    async with running(engine.url.render_as_string(hide_password=False), bootstrap_key=KEY) as service:
        yield service


async def standing(service: Service, key: str = KEY, status: int = 200) -> Any:
    return await service.post("/internal/standing", {"digest": digest(key)}, status, INTERNAL)


async def test_a_receipt_shows_the_record_its_rates_and_its_debit_as_exact_decimal_strings(service: Service) -> None:
    event = usage("demo")
    await service.publish(event)
    receipt = await service.get(f"/v1/generations/chatcmpl-{event.request_id}")
    entry_id = receipt["debit"].pop("entry_id")
    assert receipt == {
        "id": f"chatcmpl-{event.request_id}",
        "request_id": event.request_id,
        "workspace_id": "demo",
        "key_id": "AbCdEfGh1234",
        "model": "google/gemini-3-flash",
        "provider": "google",
        "upstream_model": event.upstream_model,
        "endpoint": "chat.completions",
        "stream": False,
        "outcome": "completed",
        "finish_reason": "stop",
        "native_finish_reason": "STOP",
        "usage_source": "reported",
        "service_tier": "standard",
        "tokens": {
            "input": 252, "cache_read": 1280, "cache_write": 0, "cache_write_1h": 0, "output": 418, "reasoning": 192,
        },
        "rates_pico_usd_per_token": {
            "input": 500000, "cache_read": 50000, "cache_write": 500000, "cache_write_1h": 1000000, "output": 3000000,
        },
        "pricing_version": event.pricing_version,
        "cost_pico_usd": "1444000000",
        "cost_usd": "0.001444",
        "started_at": "2026-01-31T12:00:00.000000Z",
        "first_byte_ms": 310,
        "duration_ms": 1200,
        "upstream_request_id": "upstream-1",
        "attempts": [{"supplier": "google", "status": 200, "duration_ms": 1180}],
        "debit": {
            "seq": 2, "amount_pico_usd": "-1444000000", "balance_after_pico_usd": "9998556000000", "leaf_index": 2,
            "proof": None,
        },
        "proof": None,
    }  # fmt: skip
    entries = (await service.get("/v1/workspaces/demo/entries"))["data"]
    assert entries[1]["entry_id"] == entry_id
    assert await service.get(f"/v1/generations/{event.request_id}?workspace_id=demo") == receipt | {
        "debit": receipt["debit"] | {"entry_id": entry_id}
    }
    await service.get(f"/v1/generations/{event.request_id}?workspace_id=other", 404)


async def test_a_request_that_cost_nothing_has_a_receipt_without_a_debit(service: Service) -> None:
    event = usage("demo", outcome="upstream_failed", endpoint="embeddings")
    await service.publish(event)
    receipt = await service.get(f"/v1/generations/{event.request_id}")
    assert receipt["id"] == event.request_id
    assert receipt["debit"] is None
    assert receipt["cost_usd"] == "0"


async def test_the_balance_is_what_the_credits_brought_less_what_the_requests_cost(service: Service) -> None:
    await service.post("/admin/workspaces/demo/credits", {"amount_usd": "2.5", "reference": "payment-1"})
    await service.publish(usage("demo"), usage("demo"))
    balance = await service.get("/v1/workspaces/demo/balance")
    assert balance.pop("as_of").endswith("Z")
    assert balance == {
        "workspace_id": "demo", "balance_pico_usd": "12497112000000", "balance_usd": "12.497112", "seq": 4,
    }  # fmt: skip


async def test_lists_come_whole_and_in_the_order_of_the_books_whatever_the_page_size(
    service: Service, engine: Engine
) -> None:
    events = sorted((usage("demo") for _ in range(5)), key=lambda event: event.request_id)
    Ledger(engine).record(events[:3])  # recorded at the same moment
    Ledger(engine).record(events[3:])
    for kind, name, expected in (
        ("usage", "request_id", [event.request_id for event in events]),
        ("entries", "seq", [1, 2, 3, 4, 5, 6]),
    ):
        for limit in (1, 2, 6, 1000):
            page = await service.get(f"/v1/workspaces/demo/{kind}?limit={limit}")
            found = page["data"]
            while page["has_more"]:
                page = await service.get(f"/v1/workspaces/demo/{kind}?limit={limit}&cursor={page['next_cursor']}")
                assert 0 < len(page["data"]) <= limit
                found += page["data"]
            assert page["next_cursor"] is None
            assert [item[name] for item in found] == expected


async def test_lists_are_narrowed_by_model_key_time_and_counter_account(service: Service) -> None:
    events = [usage("demo", key_id=f"key-{n}", model=f"google/model-{n % 2}") for n in range(4)]
    for event in events:
        await service.publish(event)
    listed = (await service.get("/v1/workspaces/demo/usage"))["data"]
    third = listed[2]["recorded_at"]

    async def found(kind: str, query: str) -> list[int]:
        data = (await service.get(f"/v1/workspaces/demo/{kind}?{query}"))["data"]
        ids = [event.request_id for event in events]
        return [ids.index(item["request_id"]) if item["request_id"] else -1 for item in data]

    assert await found("usage", "model=google/model-1") == [1, 3]
    assert await found("usage", "key_id=key-2") == [2]
    assert await found("usage", f"from={third}") == [2, 3]
    assert await found("usage", f"to={third}") == [0, 1]
    assert await found("entries", "contra=promo") == [-1]
    assert await found("entries", "contra=revenue&limit=2") == [0, 1]
    assert await found("entries", f"from={third}&contra=revenue") == [2, 3]


async def test_what_is_not_there_or_not_asked_rightly_is_a_clear_refusal_never_a_500(service: Service) -> None:
    for path, status in REFUSED.items():
        error = (await service.get(path, status))["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"]


async def test_each_route_lets_in_the_tokens_it_is_for_and_no_others(service: Service) -> None:
    for (method, path), welcome in ROUTES.items():
        for token in (ADMIN, AUDITOR, INTERNAL, "guess", None):
            status, answer = await service.call(method, path, {}, token)
            assert (status != 401) == (token in welcome), (method, path, token, answer)


async def test_a_standing_tells_whose_the_key_is_and_what_it_may_still_spend(service: Service) -> None:
    made = await service.post(
        "/admin/workspaces/demo/keys",
        {"label": "app", "spend_limit_usd": "5", "limit_reset": "monthly", "expires_at": "2100-01-01T00:00:00+02:00"},
    )
    await service.publish(usage("demo", key_id=made["key_id"]), usage("demo"))
    found = await standing(service, made["secret"])
    assert found.pop("window_resets_at")[8:] == "01T00:00:00.000000Z"
    assert found == {
        "key_id": made["key_id"],
        "workspace_id": "demo",
        "label": "app",
        "expires_at": "2099-12-31T22:00:00.000000Z",
        "revoked_at": None,
        "strict": False,
        "balance_pico": str(10**13 - 2 * COST_PICO),
        "available_pico": str(10**13 - 2 * COST_PICO),
        "spend_limit_pico": "5000000000000",
        "limit_reset": "monthly",
        "window_spend_pico": str(COST_PICO),
        "requests_per_minute": None,
        "tokens_per_minute": None,
    }


async def test_what_a_key_spent_before_its_window_began_no_longer_counts(service: Service, engine: Engine) -> None:
    made = await service.post("/admin/workspaces/demo/keys", {"label": "app", "limit_reset": "daily"})
    old = accept(usage("demo", key_id=made["key_id"]))
    assert not isinstance(old, Refused)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    placed = {"recorded_at": midnight - timedelta(microseconds=1), "shard": 0, "leaf_index": 99}
    with engine.begin() as connection:
        connection.execute(insert(usage_record), {**old, **placed})
        spend.add(connection, [{**old, **placed}])
    assert (await standing(service, made["secret"]))["window_spend_pico"] == "0"
    await service.publish(usage("demo", key_id=made["key_id"]))
    assert (await standing(service, made["secret"]))["window_spend_pico"] == str(COST_PICO)


async def test_without_a_reset_a_key_spends_against_its_whole_life(service: Service) -> None:
    await service.publish(usage("demo", key_id=digest(KEY)[:12], tokens=Tokens(output=1)))
    found = await standing(service)
    assert found["window_spend_pico"] == "3000000"
    assert found["window_resets_at"] is found["spend_limit_pico"] is None


async def test_an_unknown_key_has_no_standing(service: Service) -> None:
    await standing(service, "another", 404)
    await service.post("/internal/standing", {"digest": "short"}, 400, INTERNAL)


async def test_a_key_is_shown_once_then_only_by_its_public_id_until_it_is_revoked_for_ever(service: Service) -> None:
    made = await service.post("/admin/workspaces/demo/keys", {"label": "app"})
    listed = await service.get("/admin/workspaces/demo/keys")
    assert made["secret"] not in str(listed)
    assert made["key_id"] in [key["key_id"] for key in listed["data"]]
    assert all("digest" not in key and "secret" not in key for key in listed["data"])

    status, first = await service.call("DELETE", f"/admin/keys/{made['key_id']}")
    again = await service.call("DELETE", f"/admin/keys/{made['key_id']}")
    assert status == 200
    assert again == (200, first)
    assert (await standing(service, made["secret"]))["revoked_at"] == first["revoked_at"]
    assert (await service.call("DELETE", "/admin/keys/unknown"))[0] == 404


async def test_a_given_key_text_becomes_a_key_once(service: Service) -> None:
    body = {"label": "given", "secret": "sk-optk-AbCdEfGh1234-" + "x" * 43}
    made = await service.post("/admin/workspaces/demo/keys", body)
    assert made["key_id"] == "AbCdEfGh1234"
    again = await service.post("/admin/workspaces/demo/keys", body, 409)
    assert again["error"]["param"] == "secret"
    same_id = body | {"secret": "sk-optk-AbCdEfGh1234-" + "y" * 43}
    await service.post("/admin/workspaces/demo/keys", same_id, 409)


async def test_a_workspace_gets_the_id_it_is_given_once_or_else_one_of_its_own(service: Service) -> None:
    given = await service.post("/admin/workspaces", {"name": "Acme", "id": "acme", "strict": True})
    assert {**given, "created_at": None} == {"id": "acme", "name": "Acme", "strict": True, "created_at": None}
    await service.post("/admin/workspaces", {"name": "Acme", "id": "acme"}, 409)
    made = await service.post("/admin/workspaces", {"name": "Acme"})
    listed = await service.get("/admin/workspaces?limit=2")
    rest = await service.get(f"/admin/workspaces?cursor={listed['next_cursor']}")
    assert {space["id"] for space in listed["data"] + rest["data"]} == {"demo", "acme", made["id"]}
    assert (await service.get("/v1/workspaces/acme/balance"))["seq"] == 0
    assert (await service.get("/v1/workspaces/acme/usage"))["data"] == []


async def test_a_credit_is_posted_once_however_often_it_is_sent(service: Service) -> None:
    body = {"amount_usd": "999999.999999999999", "reference": "payment-1", "reason": "invoice 7"}
    first = await service.post("/admin/workspaces/demo/credits", body)
    assert await service.post("/admin/workspaces/demo/credits", body) == first
    assert first["amount_pico_usd"] == "999999999999999999"
    assert (first["contra"], first["actor"], first["reason"]) == ("cash", "admin", "invoice 7")
    other = await service.post("/admin/workspaces/demo/credits", body | {"amount_usd": "1"}, 409)
    assert other["error"]["param"] == "reference"
    await service.post("/admin/workspaces/nobody/credits", body, 404)
    assert (await service.get("/v1/workspaces/demo/balance"))["balance_usd"] == "1000009.999999999999"


async def test_a_restart_bootstraps_nothing_twice_and_finds_everything(engine: Engine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    async with running(url, bootstrap_key=KEY) as service:
        await service.publish(usage("demo"))
        before = await service.get("/v1/workspaces/demo/entries")
    async with running(url, bootstrap_key=KEY) as service:
        assert await service.get("/v1/workspaces/demo/entries") == before
        assert len((await service.get("/admin/workspaces/demo/keys"))["data"]) == 1
    async with running(url, bootstrap_key="another-key") as service:
        assert (await standing(service, "another-key"))["balance_pico"] == str(10**13 - COST_PICO)
