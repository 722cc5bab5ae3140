"""Billing's settings."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from shared.settings import BusSettings, Environment, InternalSettings, ProcessSettings

DATABASES = ("postgresql+psycopg://", "sqlite:///")


def _supported(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(DATABASES):
        raise ValueError(f"must start with {' or '.join(DATABASES)}")
    return url


class DatabaseSettings(Environment):
    """What a process takes that opens the ledger's database."""

    database_url: Annotated[SecretStr, AfterValidator(_supported)]


class BillingSettings(DatabaseSettings, InternalSettings):
    """What the billing service takes in whichever process it runs."""

    admin_token: Annotated[SecretStr, Field(min_length=16)]
    auditor_token: Annotated[SecretStr, Field(min_length=16)]
    bootstrap_key: Annotated[SecretStr, Field(min_length=8)] | None = None
    ledger_shards: Annotated[int, Field(ge=1, le=256)] = 1
    signing_key_file: Path | None = None
    checkpoint_dir: Path | None = None


class Settings(BillingSettings, BusSettings, ProcessSettings):
    """The settings of `python -m services.billing`."""
