"""The ledger's database of all runs: real SQLite, put back to its first state before each."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine

from services.billing import migrations
from services.billing.accounts import Accounts
from services.billing.bootstrap import CREDIT_USD, bootstrap
from services.billing.database import connect
from services.billing.ledger import Credit, Ledger
from shared.money import pico_usd
from tests.simulation.oracle import Books
from tests.simulation.world import KEY

POOR_PICO = 6 * 10**8  # a request costs a little less


class Database:
    """A migrated ledger with one workspace, its key and its credit."""

    def __init__(self, folder: Path) -> None:
        self.engine: Engine = connect(f"sqlite:///{folder}/ledger.db")
        migrations.upgrade(self.engine)
        ledger = Ledger(self.engine)
        bootstrap(Accounts(self.engine), ledger, KEY)
        self._file = sqlite3.connect(folder / "ledger.db")
        self._rich, self._poor = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
        self._file.backup(self._rich)
        ledger.credit(
            Credit("demo", POOR_PICO - pico_usd(CREDIT_USD), "poor", "simulation", contra="adjustment", reason="poor")
        )
        self._file.backup(self._poor)

    def reset(self, *, poor: bool) -> None:
        """Forget every run. A poor workspace has credit for about one request."""
        (self._poor if poor else self._rich).backup(self._file)

    def read(self) -> Books:
        """The books as they stand."""
        return Books(self._file)

    def close(self) -> None:
        self._rich.close()
        self._poor.close()
        self._file.close()
        self.engine.dispose()


@contextlib.contextmanager
def database(folder: Path) -> Iterator[Database]:
    """For the length of the block."""
    with contextlib.closing(Database(folder)) as made:
        yield made
