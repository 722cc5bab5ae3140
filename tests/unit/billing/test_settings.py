import pytest

from services.billing.settings import Settings
from shared.settings import load


def test_missing_and_wrong_settings_are_all_named_at_once_and_no_secret_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENTOKEN_DATABASE_URL", "mysql://me:hidden@somewhere/books")
    monkeypatch.setenv("OPENTOKEN_ADMIN_TOKEN", "tooshort")
    with pytest.raises(SystemExit):
        load(Settings)
    said = capsys.readouterr().err
    for name in ("DATABASE_URL", "BROKER_URL", "INTERNAL_TOKEN", "ADMIN_TOKEN", "AUDITOR_TOKEN"):
        assert f"OPENTOKEN_{name}: " in said
    assert "must start with postgresql+psycopg:// or sqlite:///" in said
    assert "hidden" not in said
    assert "tooshort" not in said
