"""The ledger's database of all runs: real SQLite, put back to its first state before each."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine

from services.billing import migrations
from services.billing.accounts import Accounts
from services.billing.bootstrap import bootstrap
from services.billing.database import connect
from services.billing.ledger import Ledger
from tests.simulation.oracle import Books
from tests.simulation.world import KEY


class Database:
    """A migrated ledger with one workspace, its key and its credit."""

    def __init__(self, folder: Path) -> None:
        self.engine: Engine = connect(f"sqlite:///{folder}/ledger.db")
        migrations.upgrade(self.engine)
        bootstrap(Accounts(self.engine), Ledger(self.engine), KEY)
        self._file = sqlite3.connect(folder / "ledger.db")
        self._first = sqlite3.connect(":memory:")
        self._file.backup(self._first)

    def reset(self) -> None:
        """Forget every run."""
        self._first.backup(self._file)

    def read(self) -> Books:
        """The books as they stand."""
        return Books(self._file)

    def close(self) -> None:
        self._first.close()
        self._file.close()
        self.engine.dispose()


@contextlib.contextmanager
def database(folder: Path) -> Iterator[Database]:
    """For the length of the block."""
    with contextlib.closing(Database(folder)) as made:
        yield made
