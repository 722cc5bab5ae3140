"""A token is fetched with a signed assertion, kept while it lasts, and fetched anew when it is refused."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from google.auth import jwt
from pydantic import SecretStr

from services.workers.google import PROVIDER
from services.workers.google.vertex import TOKEN_MARGIN_S, Settings, VertexSupplier, failure, suppliers
from services.workers.memory import BoundedMemory
from services.workers.provider import Failed
from shared.errors import UpstreamAuthFailed, UpstreamError, VertexAuthFailed
from tests.unit.simulator.vertex import EMAIL, FLEX, PROJECT, key_pair
from tests.unit.workers.google.calls import (
    GEMINI,
    NOW_S,
    TOKEN_URI,
    Driven,
    chat,
    error,
    granted,
    reply,
    returned,
    vertex,
)

HELLO: Any = {"messages": [{"role": "user", "content": "Hi"}]}


def planned(memory: BoundedMemory, location: str = "global", **members: Any) -> Driven:
    return Driven(PROVIDER.plan(chat(memory, vertex(location), **HELLO, **members)))


def test_the_assertion_is_signed_for_an_hour_and_for_the_token_endpoint_alone() -> None:
    plan = planned(BoundedMemory())
    assert (plan.sent.method, plan.sent.url) == ("POST", TOKEN_URI)
    form = parse_qs(plan.sent.body.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    claims = jwt.decode(form["assertion"][0], verify=False)  # type: ignore[no-untyped-call]
    assert (claims["iss"], claims["aud"], claims["iat"], claims["exp"]) == (EMAIL, TOKEN_URI, NOW_S, NOW_S + 3600)
    _, signed, signature = form["assertion"][0].split(".")
    assert signed
    assert signature


@pytest.mark.parametrize("location", ["global", "us-central1"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_call_goes_to_the_project_at_its_location_with_the_token(location: str, *, stream: bool) -> None:
    call = planned(BoundedMemory(), location, stream=stream).answer(granted()).result
    base = f"https://vertex.example/v1/projects/{PROJECT}/locations/{location}/publishers/google/models"
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    assert call.url == f"{base}/gemini-3-flash-preview:{method}"
    assert call.headers == {"authorization": "Bearer ya29.one", "content-type": "application/json"}


def test_a_token_serves_every_location_until_shortly_before_its_end() -> None:
    memory = BoundedMemory()
    key = planned(memory).answer(granted()).result.assumes["token"]
    assert memory.left_s(key) == pytest.approx(3600 - TOKEN_MARGIN_S, abs=5)
    call = returned(PROVIDER.plan(chat(memory, vertex("us-central1"), **HELLO)))
    assert call.headers["authorization"] == "Bearer ya29.one"


def test_a_token_that_ends_at_once_is_used_once() -> None:
    memory = BoundedMemory()
    assert planned(memory).answer(granted(expires_in=1)).result.headers["authorization"] == "Bearer ya29.one"
    assert planned(memory).sent.url == TOKEN_URI


@pytest.mark.parametrize(
    ("answer", "retries"),
    [
        (reply({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 400), 0),
        (reply({}), 0),
        (reply({"error": "internal_failure"}, 503), 2),
    ],
    ids=["refused", "nothing in it", "failing"],
)
def test_without_a_token_the_client_is_told_that_our_credentials_failed(answer: Any, retries: int) -> None:
    with pytest.raises(Failed) as failed:
        planned(BoundedMemory()).answer(answer)
    assert isinstance(failed.value.error, VertexAuthFailed)
    assert (failed.value.error.status, failed.value.error.code) == (502, "vertex_auth_failed")
    assert failed.value.retries == retries


@pytest.mark.parametrize(("status", "disproves"), [(401, "token"), (403, None)])
def test_a_refusal_of_our_account_is_never_the_clients(status: int, disproves: str | None) -> None:
    failed = failure(vertex(), error(status, f"projects/{PROJECT} may not"))
    assert isinstance(failed.error, VertexAuthFailed)
    assert failed.disproves == disproves
    assert isinstance(failure(GEMINI, error(status, "no")).error, UpstreamAuthFailed)


def test_other_refusals_keep_their_status_and_words() -> None:
    failed = failure(vertex(), error(400, "a part must have exactly one initialized field"))
    assert isinstance(failed.error, UpstreamError)
    assert failed.error.status == 400


@pytest.mark.parametrize(
    ("supplier", "tier", "flex"),
    [
        (vertex("global"), "flex", True),
        (vertex("global"), "default", False),
        (vertex("us-central1"), "flex", False),
        (GEMINI, "flex", False),
    ],
    ids=["global", "global, not asked for", "regional", "gemini"],
)
def test_flex_is_asked_of_the_global_endpoint_alone(supplier: Any, tier: str, *, flex: bool) -> None:
    memory = BoundedMemory()
    call = chat(memory, supplier, service_tier=tier, **HELLO)
    plan = Driven(PROVIDER.plan(call))
    sent = plan.answer(granted()).result if isinstance(supplier, VertexSupplier) else returned(PROVIDER.plan(call))
    assert (FLEX.items() <= sent.headers.items()) == flex
    assert bool(FLEX.keys() & sent.headers.keys()) == flex
    assert call.service_tier == ("flex" if flex else "standard")


def key_file(tmp_path: Path, **members: Any) -> Path:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(key_pair().info("https://oauth2.example") | members))
    return path


def test_keys_of_the_gemini_api_come_first_then_each_location(tmp_path: Path) -> None:
    settings = Settings(api_key=SecretStr("one, two"), credentials=key_file(tmp_path), location="global, us-central1")
    assert [one.name for one in suppliers(settings)] == ["gemini-1", "gemini-2", "vertex-global", "vertex-us-central1"]
    _, _, everywhere, region = suppliers(settings)
    assert everywhere.base_url == f"https://aiplatform.googleapis.com/v1/projects/{PROJECT}/locations/global"
    assert region.base_url == (
        f"https://us-central1-aiplatform.googleapis.com/v1/projects/{PROJECT}/locations/us-central1"
    )
    assert [one.flex for one in suppliers(settings)] == [False, False, True, False]


@pytest.mark.parametrize("members", [{"private_key": "none"}, {"client_email": None, "private_key": None}])
def test_an_unfit_key_file_is_refused_at_start_without_showing_what_is_in_it(
    tmp_path: Path, members: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"GOOGLE_APPLICATION_CREDENTIALS: .* is not a service account's key file"):
        suppliers(Settings(credentials=key_file(tmp_path, **members)))
    path = key_file(tmp_path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="not a service account") as error:
        suppliers(Settings(credentials=path))
    assert "PRIVATE" not in str(error.value)


def test_a_project_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="GOOGLE_CLOUD_PROJECT"):
        suppliers(Settings(credentials=key_file(tmp_path, project_id=None)))


def test_neither_key_nor_token_is_shown_by_what_holds_them() -> None:
    call = planned(BoundedMemory()).answer(granted()).result
    assert "ya29" not in repr(call)
    assert "PRIVATE" not in repr(vertex())
    assert "Signer" not in repr(vertex())
