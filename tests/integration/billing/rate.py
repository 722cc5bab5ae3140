"""`python -m tests.integration.billing.rate URL [EVENTS [BATCH]]`: events a second that the writer books.

The database must be empty, and is left full.
"""

import gc
import sys
import time

from services.billing import migrations
from services.billing.accounts import Accounts
from services.billing.database import connect
from services.billing.ledger import Ledger
from tests.unit.billing.events import usage

BATCH = 500
WORKSPACES = 20


def main(url: str, events: int, size: int = BATCH) -> None:
    """Print the rate from the first commit to the last, in batches of `size`."""
    engine = connect(url)
    migrations.upgrade(engine)
    for name in range(WORKSPACES):
        Accounts(engine).create_workspace(str(name), str(name))
    ledger, made = Ledger(engine), [usage(str(number % WORKSPACES)) for number in range(events)]
    gc.freeze()  # the events made beforehand are no part of the writer's garbage
    started = time.perf_counter()
    for first in range(0, events, size):
        batch = made[first : first + size]
        assert ledger.record(batch) == {"recorded": len(batch)}
    sys.stdout.write(f"{engine.dialect.name}: {events / (time.perf_counter() - started):,.0f} events/s\n")
    engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:] or ["20000"]))
