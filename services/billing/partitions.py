"""The months of `usage_record`, made ahead on PostgreSQL: a job, and an alert while the next month is missing.

Nothing is lost without its month, the default partition takes it; but from there it cannot be moved.
"""

import asyncio

import structlog
from prometheus_client import Gauge
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from services.billing.database import Threads

log = structlog.get_logger()

MONTHS_AHEAD = 3  # a quarter in which somebody may see the alert
LOOK_S = 3600.0
RETRY_S = 60.0  # an audit that reads the table, or a dump, keeps it from changing for minutes

AHEAD = Gauge("opentoken_ledger_partitions_ahead", "Months after this one that have their partition; alert below 1.")

_MAKE = "SELECT make_partitions(:ahead)"
_COUNT = """
SELECT count(to_regclass(to_char(now() AT TIME ZONE 'UTC' + make_interval(months => ahead), '"usage_record_"YYYY_MM')))
FROM generate_series(1, :ahead) AS ahead
"""


def make_ahead(engine: Engine) -> int:
    """Make the months that are missing; how many months after this one there are. Raises SQLAlchemyError."""
    if engine.dialect.name == "sqlite":
        return MONTHS_AHEAD
    try:
        with engine.begin() as connection:
            connection.execute(text(_MAKE), {"ahead": MONTHS_AHEAD})
    finally:
        with engine.connect() as connection:
            ahead = int(connection.scalar(text(_COUNT), {"ahead": MONTHS_AHEAD}) or 0)
        AHEAD.set(ahead)
        if ahead < 1:
            log.error("next_partition_missing", table="usage_record")
    return ahead


async def keep_ahead(engine: Engine, threads: Threads) -> None:
    """Make months until cancelled, whatever goes wrong."""
    while True:
        try:
            await threads.write(make_ahead, engine)
        except SQLAlchemyError:
            log.exception("partitions_not_made", retry_s=RETRY_S)
            await asyncio.sleep(RETRY_S)
        else:
            await asyncio.sleep(LOOK_S)
