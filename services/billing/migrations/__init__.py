"""The schema and its versions: an Alembic environment configured here, so that no ini file is needed.

The SQL of a version stands whole in one file per database, under `versions/`. Migrating is a step of its own, taken
by the owner of the database; the service only checks, and refuses to start on a schema that it was not written for.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, ProgrammingError

from services.billing.database import change_schema

COMMAND = "python -m services.billing.migrations"


class SchemaError(Exception):
    """The database cannot be used as it is; the message says what to do."""


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Bring the schema to the newest version, in one transaction; the versions before and after."""
    if engine.dialect.name == "sqlite" and engine.url.database:
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    config = _config()

    def change(connection: Connection) -> str | None:
        before = MigrationContext.configure(connection).get_current_revision()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before

    return change_schema(engine, change), _expected(config)


def check(engine: Engine) -> None:
    """Raise SchemaError unless the schema is at the version that this program was written for."""
    try:
        with engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
    except (OperationalError, ProgrammingError) as error:  # not there, or not for us until it is hardened
        raise SchemaError(f"cannot open the database {engine.url!r}: {error.orig}") from error
    if found != (expected := _expected(_config())):
        raise SchemaError(
            f"the schema of {engine.url!r} is at version {found or 'none'}, but this program needs {expected}: "
            f"run `{COMMAND}` (of this program's version), then start again"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def _expected(config: Config) -> str:
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None, "there is no version at all"
    return head
