"""`python -m tests.integration.billing.rate URL [EVENTS]`: events a second that the writer books, in batches of 500.

The database must be empty, and is left full.
"""

import sys
import time

from services.billing import migrations
from services.billing.accounts import Accounts
from services.billing.database import connect
from services.billing.ledger import Ledger
from tests.unit.billing.events import usage

BATCH = 500
WORKSPACES = 20


def main(url: str, events: int) -> None:
    """Print the rate from the first commit to the last."""
    engine = connect(url)
    migrations.upgrade(engine)
    for name in range(WORKSPACES):
        Accounts(engine).create_workspace(str(name), str(name))
    ledger, made = Ledger(engine), [usage(str(number % WORKSPACES)) for number in range(events)]
    started = time.perf_counter()
    for first in range(0, events, BATCH):
        batch = made[first : first + BATCH]
        assert ledger.record(batch) == {"recorded": len(batch)}
    sys.stdout.write(f"{engine.dialect.name}: {events / (time.perf_counter() - started):,.0f} events/s\n")
    engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
