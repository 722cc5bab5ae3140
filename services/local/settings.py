"""Settings of the embedded default; every one of them has a default, or is made up once and kept in the data dir."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import orjson
from pydantic import Field, SecretStr

from services.billing.accounts import make_secret
from services.billing.files import write_file
from shared.bus.connect import LOCAL
from shared.settings import Environment


class LocalSettings(Environment):
    """What `python -m services.local` takes."""

    host: str = "127.0.0.1"
    edge_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    billing_port: Annotated[int, Field(ge=0, le=65535)] = 8090
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    data_dir: Path = Path(".opentoken")
    catalog: Path | None = None
    broker_url: Annotated[str, Field(pattern=r"^(local:$|amqps?://)")] = LOCAL
    database_url: SecretStr | None = None
    ledger_shards: Annotated[int, Field(ge=1, le=256)] = 1
    signing_key_file: Path | None = None
    checkpoint_dir: Path | None = None
    spool_dir: Path | None = None
    spool_max_bytes: Annotated[int, Field(ge=0)] = 1024**3
    internal_token: Annotated[SecretStr, Field(min_length=16)] | None = None
    admin_token: Annotated[SecretStr, Field(min_length=16)] | None = None
    auditor_token: Annotated[SecretStr, Field(min_length=16)] | None = None
    bootstrap_key: Annotated[SecretStr, Field(min_length=8)] | None = None
    log_format: Literal["console", "json"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "warning"

    @property
    def ledger_url(self) -> SecretStr:
        """The database, by default SQLite in the data dir."""
        return self.database_url or SecretStr(f"sqlite:///{(self.data_dir / 'ledger.db').absolute()}")


CREDENTIALS = "credentials.json"
SECRETS = ("internal_token", "admin_token", "auditor_token", "bootstrap_key")


def secrets_of(settings: LocalSettings) -> dict[str, str]:
    """The tokens and the demo key: as set, else as kept from an earlier start, else made up; kept for the next."""
    file = settings.data_dir / CREDENTIALS
    kept = orjson.loads(file.read_bytes()) if file.exists() else {}
    made = {name: make_secret() if name == "bootstrap_key" else secrets.token_urlsafe(24) for name in SECRETS}
    given = {name: value.get_secret_value() for name in SECRETS if (value := getattr(settings, name)) is not None}
    all_of_them: dict[str, str] = made | kept | given
    write_credentials(settings, all_of_them)
    return all_of_them


def write_credentials(settings: LocalSettings, credentials: Mapping[str, str]) -> None:
    """Leave them in the data dir, for the next start and for the command line."""
    written = orjson.dumps(credentials, option=orjson.OPT_INDENT_2).decode()
    write_file(settings.data_dir / CREDENTIALS, written, mode=0o600)
