"""Reading a part of a workspace's entries reads that part, not the table."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from services.billing.accounts import Accounts
from services.billing.books import Books, Page
from services.billing.statement import Month, Statements

ENTRIES = 20_000  # of two workspaces, over a year; at 100,000 the plans were seen to be the same
FILL = """
WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})
INSERT INTO ledger_entry (entry_id, shard, leaf_index, workspace_id, seq, contra, amount_pico, balance_after_pico,
                          reference, actor, recorded_at)
SELECT {id}, 0, n, CASE n % 2 WHEN 0 THEN 'w' ELSE 'a' END, n / 2 + 1, 'cash', 1, n / 2 + 1, CAST(n AS text), 'test',
       {moment} FROM numbers
"""
DIALECT = {
    "sqlite": {
        "id": "printf('%036d', n)",
        "moment": "strftime('%Y-%m-%dT%H:%M:%f000Z', '2025-01-01', (n * 26) || ' minutes')",
    },
    "postgresql": {"id": "gen_random_uuid()", "moment": "timestamptz '2025-01-01Z' + n * interval '26 minutes'"},
}
JUNE = datetime(2025, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def full(engine: Engine) -> Engine:
    """A year's entries of two workspaces."""
    for name in "aw":
        Accounts(engine).create_workspace(name, name)
    with engine.begin() as connection:
        connection.execute(text(FILL.format(last=ENTRIES - 1, **DIALECT[engine.dialect.name])))
    return engine


def plans(engine: Engine, read: Callable[[], Any]) -> str:
    """How the database goes about the queries for entries that `read` makes."""
    queries = list[tuple[str, Any]]()

    def note(_: Connection, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        queries.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    read()
    event.remove(engine, "before_cursor_execute", note)
    explain = "EXPLAIN " if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
    with engine.connect() as connection:
        found = [row[-1] for each in queries if "ledger_entry" in each[0]
                 for row in connection.exec_driver_sql(explain + each[0], each[1])]  # fmt: skip
    return "\n".join(line for line in found if "ledger_entry" in line)


@pytest.mark.parametrize("analyzed", [False, True])
def test_no_part_of_a_workspaces_entries_is_found_by_reading_the_whole_table(full: Engine, analyzed: bool) -> None:
    if analyzed:
        with full.begin() as connection:
            connection.execute(text("ANALYZE"))
    books = Books(full)
    reads: list[Callable[[], Any]] = [
        lambda: books.entries("w", Page(100, None, JUNE, JUNE + DAY), None),
        lambda: books.entries("w", Page(100, "100", JUNE), "cash"),
        lambda: books.entries("w", Page(100, "5000"), None),
        lambda: Statements(full).of("w", Month.of("2025-06")),
    ]
    for read in reads:
        plan = plans(full, read)
        assert plan
        assert "Seq Scan" not in plan, plan
        assert "SCAN ledger_entry" not in plan, plan


def test_entries_of_a_day_are_found_by_their_time(full: Engine) -> None:
    if full.dialect.name == "sqlite":
        pytest.skip("SQLite walks them by their number")
    plan = plans(full, lambda: Books(full).entries("w", Page(100, None, JUNE, JUNE + DAY), None))
    assert "entry_of_time" in plan
