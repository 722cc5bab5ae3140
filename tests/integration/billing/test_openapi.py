"""The published description of billing's API: valid OpenAPI 3.1, complete, and true of real answers."""

from collections.abc import AsyncIterator
from typing import Any

import openapi_spec_validator
import pytest_asyncio
from sqlalchemy import Engine

from services.billing.openapi import OPERATIONS, document
from tests.integration.billing.service import AUDITOR, Service, running
from tests.unit.billing.events import usage

MODELS = {operation.name: operation.answer for operation in OPERATIONS.values()}


@pytest_asyncio.fixture
async def service(engine: Engine) -> AsyncIterator[Service]:
    url = engine.url.render_as_string(hide_password=False)
    async with running(url, bootstrap_key="a-key-of-any-form") as service:
        yield service


def holds(name: str, answer: Any) -> None:
    model = MODELS[name]
    assert model is not None
    model.model_validate(answer)


def test_the_document_is_valid_openapi() -> None:
    openapi_spec_validator.validate(document())


def test_every_operation_says_in_a_line_of_its_own_what_it_does() -> None:
    summaries = [operation["summary"] for methods in document()["paths"].values() for operation in methods.values()]
    assert all(summaries)
    assert len(set(summaries)) == len(summaries)


async def test_the_document_names_every_route_of_the_service_and_no_other(service: Service) -> None:
    found, published = await service.call("GET", "/openapi.json", token=None)
    assert found == 200
    named = {(method, path) for path, methods in published["paths"].items() for method in methods}
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in service.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert named == {route for route in served if not route[1].startswith(("/internal/", "/openapi.json"))}


async def test_real_answers_are_as_the_document_says(service: Service) -> None:
    event = usage("demo")
    await service.publish(event, usage("demo", outcome="upstream_failed"))
    await service.publish(usage("nobody"), event.model_copy(update={"duration_ms": 1}))
    (quarantined,) = (await service.get("/admin/quarantine"))["data"]
    (conflicting,) = (await service.get("/admin/conflicts"))["data"]
    holds("quarantined", await service.get(f"/admin/quarantine/{quarantined['digest']}"))
    holds("conflict", await service.get(f"/admin/conflicts/{conflicting['digest']}"))
    month = (await service.get("/v1/workspaces/demo/balance"))["as_of"][:7]
    for name, path in (
        ("balance", "/v1/workspaces/demo/balance"),
        ("listUsage", "/v1/workspaces/demo/usage"),
        ("listEntries", "/v1/workspaces/demo/entries?limit=1"),
        ("receipt", f"/v1/generations/{event.request_id}"),
        ("statement", f"/v1/statements/demo/{month}"),
        ("listWorkspaces", "/admin/workspaces"),
        ("workspace", "/admin/workspaces/demo"),
        ("listKeys", "/admin/workspaces/demo/keys"),
        ("log", "/admin/log"),
        ("listQuarantine", "/admin/quarantine"),
        ("listConflicts", "/admin/conflicts"),
        ("health", "/health"),
        ("ready", "/ready"),
    ):
        holds(name, await service.get(path))
    holds("createWorkspace", await service.post("/admin/workspaces", {"name": "Acme"}))
    key = await service.post("/admin/workspaces/demo/keys", {"label": "app"})
    holds("createKey", key)
    holds("key", await service.get(f"/admin/keys/{key['key_id']}"))
    holds("changeKey", (await service.call("PATCH", f"/admin/keys/{key['key_id']}", {"label": "new"}))[1])
    holds("changeWorkspace", (await service.call("PATCH", "/admin/workspaces/demo", {"strict": True}))[1])
    holds("revokeKey", (await service.call("DELETE", f"/admin/keys/{key['key_id']}"))[1])
    holds("credit", await service.post("/admin/workspaces/demo/credits", {"amount_usd": "1", "reference": "p"}))


async def test_an_auditor_reads_everything_and_every_route_that_writes_refuses_the_auditors_token(
    service: Service,
) -> None:
    for method, path in OPERATIONS:
        url, headers = path.replace("{", "").replace("}", ""), {"Authorization": f"Bearer {AUDITOR}"}
        async with service.client.request(method, url, headers=headers, data=b"{}") as answer:
            reads = method == "get" and not path.startswith(("/admin/workspaces", "/admin/keys"))
            assert (answer.status != 401) == reads, (method, path, answer.status)
