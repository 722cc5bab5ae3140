"""Settings: every problem at once, by the variable's name, and never a secret on the screen."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from services.billing.settings import BillingSettings
from services.edge.settings import EdgeSettings
from services.workers.settings import WorkerSettings
from shared.settings import load

TOKEN = "a-long-internal-token"
GOOD = {"OPENTOKEN_INTERNAL_TOKEN": TOKEN, "OPENTOKEN_BROKER_URL": "amqp://user:broker-password@broker/"}


@pytest.fixture(autouse=True)
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*EdgeSettings.model_fields, *BillingSettings.model_fields]:
        monkeypatch.delenv(f"OPENTOKEN_{name.upper()}", raising=False)


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in (GOOD | variables).items():
        monkeypatch.setenv(name, value)


def test_what_is_not_given_has_its_documented_default(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch)
    settings = load(EdgeSettings)
    assert (settings.host, settings.port, settings.metrics_port) == ("0.0.0.0", 8080, 9090)
    assert (settings.data_dir, settings.spool_max_bytes, settings.ledger_shards) == (Path(".opentoken"), 2**30, 1)
    assert settings.workers_of(["x"]) == {"x": "http://worker-x:8080"}
    assert settings.billing_url == "http://billing:8080"


def test_all_problems_are_told_at_once_and_by_their_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(
        monkeypatch,
        OPENTOKEN_PORT="70000",
        OPENTOKEN_LEDGER_SHARDS="none",
        OPENTOKEN_BROKER_URL="http://broker",
        OPENTOKEN_LOG_LEVEL="loud",
    )
    monkeypatch.delenv("OPENTOKEN_INTERNAL_TOKEN")
    with pytest.raises(SystemExit) as ended:
        load(WorkerSettings)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    for name in ("PORT", "LEDGER_SHARDS", "BROKER_URL", "LOG_LEVEL", "INTERNAL_TOKEN"):
        assert f"  OPENTOKEN_{name}: " in told
    assert "Traceback" not in told


@pytest.mark.parametrize("kind", [WorkerSettings, EdgeSettings, BillingSettings])
def test_secrets_are_never_printed(
    kind: type[WorkerSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = {
        "OPENTOKEN_INTERNAL_TOKEN": "short-secret",
        "OPENTOKEN_ADMIN_TOKEN": "admin-secret",
        "OPENTOKEN_BROKER_URL": "amqq://user:broker-secret@broker/",
        "OPENTOKEN_DATABASE_URL": "oracle://user:database-secret@database/",
    }
    given(monkeypatch, **secrets)
    with pytest.raises(SystemExit):
        load(kind)
    told = capsys.readouterr()
    assert "secret" not in told.err + told.out


def test_a_token_is_hidden_in_every_print_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch)
    settings = load(EdgeSettings)
    assert TOKEN not in f"{settings} {settings!r}"
    assert settings.internal_token.get_secret_value() == TOKEN


def test_settings_cannot_be_changed_once_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch)
    settings: BaseModel = load(EdgeSettings)
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[attr-defined]  # that is the point


def test_an_empty_variable_is_one_that_is_not_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, OPENTOKEN_PORT="", OPENTOKEN_INTERNAL_TOKEN="")
    with pytest.raises(SystemExit):
        load(EdgeSettings)
    told = capsys.readouterr().err
    assert "OPENTOKEN_INTERNAL_TOKEN: " in told
    assert "OPENTOKEN_PORT" not in told


def test_the_workers_that_the_pattern_does_not_fit_are_named_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, OPENTOKEN_WORKER_URL="http://w-{provider}:1", OPENTOKEN_WORKER_URLS='{"b":"http://other:2"}')
    assert load(EdgeSettings).workers_of(["a", "b"]) == {"a": "http://w-a:1", "b": "http://other:2"}
    given(monkeypatch, OPENTOKEN_WORKER_URLS='{"b":["http://one:2", "http://two:2"]}')
    assert load(EdgeSettings).workers_of(["b"]) == {"b": ["http://one:2", "http://two:2"]}


@pytest.mark.parametrize("wrong", ["not json", "[]", '{"b": 3}', '{"b": "ftp://x"}', '{"b": []}'])
def test_a_list_of_workers_that_cannot_be_read_is_told_like_any_problem(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, OPENTOKEN_WORKER_URLS=wrong)
    with pytest.raises(SystemExit) as ended:
        load(EdgeSettings)
    assert ended.value.code == 2
    assert "OPENTOKEN_WORKER_URLS" in capsys.readouterr().err
