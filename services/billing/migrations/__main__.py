"""`python -m services.billing.migrations`: bring the database of OPENTOKEN_DATABASE_URL to this program's schema."""

import sys

from sqlalchemy.exc import OperationalError

from services.billing import migrations
from services.billing.database import connect
from services.billing.settings import DatabaseSettings
from shared.settings import load


def main() -> None:
    """Migrate, and say what was done."""
    engine = connect(load(DatabaseSettings).database_url.get_secret_value())
    try:
        before, after = migrations.upgrade(engine)
    except OperationalError as error:
        sys.exit(f"cannot open the database {engine.url!r}: {error.orig}")
    finally:
        engine.dispose()
    done = "nothing to do" if before == after else f"migrated from version {before or 'none'}"
    sys.stdout.write(f"{engine.url!r} is at version {after}: {done}\n")


if __name__ == "__main__":
    main()
