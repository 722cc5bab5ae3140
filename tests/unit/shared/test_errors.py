"""Every error a client can see: one envelope, and the status, type and code that the documentation says."""

import inspect

import pytest

from shared import errors
from shared.errors import ApiError, UpstreamError

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ApiError)]
TYPES = {"invalid_request_error", "authentication_error", "upstream_error", "api_error"} | {"requests", "tokens"}


@pytest.mark.parametrize("kind", ALL)
def test_every_error_says_something_in_the_one_envelope(kind: type[ApiError]) -> None:
    body = kind().body()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "code"}
    assert body["error"]["message"] == (kind.__doc__ or "").split("\n")[0]
    assert body["error"]["type"] in TYPES
    assert 400 <= kind().status < 600


@pytest.mark.parametrize("kind", ALL)
def test_the_drawn_tree_names_every_error_with_its_status_and_code(kind: type[ApiError]) -> None:
    tree = (errors.__doc__ or "").splitlines()
    (line,) = [one.split() for one in tree if kind.__name__ in one.split()]
    parents = {"ApiError", "InternalError", "WorkerLost", "UpstreamError", "AuthenticationError", "InvalidRequest"}
    if kind.__name__ not in parents:
        assert line[-2:] == [str(kind.status), kind.code]


def test_the_codes_are_those_of_the_documentation() -> None:
    told = {(kind.status, kind.type, kind.code) for kind in ALL}
    assert told >= {
        (400, "invalid_request_error", None),
        (400, "invalid_request_error", "model_not_found"),
        (400, "invalid_request_error", "unsupported_parameter"),
        (401, "authentication_error", "missing_auth"),
        (401, "authentication_error", "invalid_key"),
        (401, "authentication_error", "expired_key"),
        (402, "invalid_request_error", "insufficient_credit"),
        (404, "invalid_request_error", "not_found"),
        (405, "invalid_request_error", "method_not_allowed"),
        (409, "invalid_request_error", "idempotency_conflict"),
        (429, "requests", "rate_limit_exceeded"),
        (429, "tokens", "rate_limit_exceeded"),
        (413, "invalid_request_error", "request_too_large"),
        (429, "invalid_request_error", "spend_limit_exceeded"),
        (500, "api_error", None),
        (502, "upstream_error", "upstream_auth_failed"),
        (503, "upstream_error", "no_supplier"),
        (503, "api_error", "billing_unavailable"),
        (504, "upstream_error", "upstream_timeout"),
    }


def test_the_member_at_fault_stands_in_the_body_where_there_is_one() -> None:
    assert errors.InvalidRequest("wrong", param="top_k").body()["error"]["param"] == "top_k"


def test_a_providers_refusal_keeps_its_status_for_itself_alone() -> None:
    assert UpstreamError.refused(429, "slow down", {"Retry-After": "3"}).status == 429
    assert UpstreamError().status == 502
    assert UpstreamError.interrupted("gone").body()["error"] == {
        "message": "stream interrupted: gone",
        "type": "upstream_error",
        "code": "upstream_error",
    }
