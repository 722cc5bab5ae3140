"""What the books hold, read straight from the database."""

from collections.abc import Iterable

from sqlalchemy import Engine, select

from services.billing.database import Row, reading, rows
from services.billing.ledger import heads
from services.billing.tables import conflict, ledger_entry, quarantine, usage_record
from shared.money import pico_usd

TEN_USD = pico_usd("10")


def books(engine: Engine) -> dict[str, list[Row]]:
    """Every row of every table of the books, in order."""
    with reading(engine) as connection:
        return {
            table.name: rows(connection, select(table).order_by(*table.primary_key))
            for table in (usage_record, ledger_entry, conflict, quarantine)
        }


def balances(engine: Engine, names: Iterable[str]) -> dict[str, int]:
    with reading(engine) as connection:
        return {name: head.balance_pico for name, head in heads(connection, list(names)).items()}
