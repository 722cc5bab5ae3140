"""`python -m services.billing.migrations.hardening`: roles, grants and event triggers, set by a superuser."""

import sys
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError, ProgrammingError

from services.billing.database import change_schema, connect, run_script
from services.billing.settings import DatabaseSettings
from shared.settings import load


def harden(engine: Engine) -> None:
    """Run hardening.postgresql.sql, as often as wanted. Raises ProgrammingError for any but a superuser."""
    assert engine.dialect.name == "postgresql", "SQLite has no roles: whoever may write its file may do anything"
    script = Path(__file__).with_name("hardening.postgresql.sql").read_text("utf-8")
    change_schema(engine, lambda connection: run_script(connection, script))


def main() -> None:
    """Harden, and say so."""
    engine = connect(load(DatabaseSettings).database_url.get_secret_value())
    try:
        harden(engine)
    except (OperationalError, ProgrammingError) as error:
        sys.exit(f"cannot harden {engine.url!r}, which takes a superuser and a migrated database: {error.orig}")
    finally:
        engine.dispose()
    sys.stdout.write(f"{engine.url!r} is hardened\n")


if __name__ == "__main__":
    main()
