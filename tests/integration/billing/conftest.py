"""Both databases, migrated; every test that asks for `engine` runs on each."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from sqlalchemy import Engine

from services.billing import migrations
from services.billing.accounts import Accounts
from services.billing.database import connect
from services.billing.ledger import Ledger
from tests.integration.billing.clock import Clock


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/ledger.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = connect(database_url)
    migrations.upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_engine(postgres_url: str) -> Iterator[Engine]:
    """For what only PostgreSQL has."""
    engine = connect(postgres_url)
    migrations.upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    """A ledger with the workspaces a, b, c and w."""
    for name in "abcw":
        Accounts(engine).create_workspace(name, name)
    return Ledger(engine)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the ledger, and of whatever else a test gives it to."""
    clock = Clock()
    monkeypatch.setattr("services.billing.ledger.datetime", Mock(now=lambda _: clock.now))
    return clock
