"""Settings from the environment: frozen models, loaded once, every problem reported together and by name."""

import sys
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "OPENTOKEN_"


class Environment(BaseSettings):
    """A frozen model filled from `OPENTOKEN_*` variables; an alias in capitals is a variable's whole name."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", populate_by_name=True, env_ignore_empty=True
    )


class ProcessSettings(Environment):
    """What every process takes."""

    host: str = "0.0.0.0"  # noqa: S104 - a container listens on its own address
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = 9090
    data_dir: Path = Path(".opentoken")
    catalog: Path | None = None
    log_format: Literal["console", "json"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class BusSettings(Environment):
    """What a process on the bus takes."""

    broker_url: Annotated[str, Field(pattern=r"^amqps?://")]
    ledger_shards: Annotated[int, Field(ge=1, le=256)] = 1


class SpoolSettings(Environment):
    """What a process with a spool takes."""

    spool_dir: Path | None = None
    spool_max_bytes: Annotated[int, Field(ge=0)] = 1024**3  # 1 GiB: days of usage at 10 requests/s


class InternalSettings(Environment):
    """What a process takes that calls, or is called by, our other services."""

    internal_token: Annotated[SecretStr, Field(min_length=16)]


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S]) -> S:
    """The settings in the environment; where any is missing or wrong, print all problems and exit with 2."""
    try:
        return kind()
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        lines = [f"  {_variable(kind, str(problem['loc'][0]))}: {problem['msg']}\n" for problem in problems]
        sys.stderr.write("OpenToken cannot start, because of its settings:\n" + "".join(lines))
        sys.exit(2)


def _variable(kind: type[BaseSettings], name: str) -> str:
    """The environment variable of a field, or of its alias."""
    field = kind.model_fields.get(name)
    alias = field.validation_alias if field else name
    if isinstance(alias, AliasChoices):
        alias = str(alias.choices[0])
    return alias if isinstance(alias, str) and alias.isupper() else PREFIX + name.upper()
