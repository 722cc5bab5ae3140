"""What must hold between the rows of the books, each as one query that finds the rows for which it does not.

A query's columns are the row's name, what is expected of it, and what is there. All run on both databases; sums and
products are NUMERIC, so that no tampered number overflows on the way.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be; `row` names where."""

    check: str
    row: str
    expected: str
    found: str

    def json(self) -> dict[str, Any]:
        """The finding for programs."""
        return {"check": self.check, "row": self.row, "expected": self.expected, "found": self.found}


# Invariant 6: what a record costs is in the record itself; an outcome that is not billed costs nothing.
COST = """
SELECT 'usage_record ' || CAST(request_id AS TEXT), 'cost_pico ' || CAST(owed AS TEXT), CAST(cost_pico AS TEXT)
FROM (
    SELECT request_id, cost_pico, CASE WHEN outcome IN ('completed', 'client_disconnected') THEN
        CAST(input_tokens AS NUMERIC) * input_rate_pico + CAST(cache_read_tokens AS NUMERIC) * cache_read_rate_pico
        + CAST(cache_write_tokens AS NUMERIC) * cache_write_rate_pico
        + CAST(cache_write_1h_tokens AS NUMERIC) * cache_write_1h_rate_pico
        + CAST(output_tokens AS NUMERIC) * output_rate_pico ELSE 0 END AS owed
    FROM usage_record
) AS computed WHERE owed <> cost_pico
"""

# Invariants 1 and 2: a record that costs something has one debit, of just that; one that does not has none.
DEBIT = """
SELECT 'usage_record ' || CAST(record.request_id AS TEXT),
    CASE WHEN record.cost_pico = 0 THEN 'no debit' ELSE 'a debit of ' || CAST(record.cost_pico AS TEXT) END
        || ' in ' || record.workspace_id,
    CASE WHEN debit.entry_id IS NULL THEN 'none' ELSE CAST(-debit.amount_pico AS TEXT) || ' in ' || debit.workspace_id
        || ', entry ' || CAST(debit.entry_id AS TEXT) END
FROM usage_record AS record LEFT JOIN ledger_entry AS debit ON debit.request_id = record.request_id
WHERE CASE WHEN debit.entry_id IS NULL THEN record.cost_pico <> 0
    ELSE debit.amount_pico <> -record.cost_pico OR record.cost_pico = 0
        OR debit.workspace_id <> record.workspace_id OR debit.contra <> 'revenue' END
"""

STRAY = """
SELECT 'ledger_entry ' || CAST(debit.entry_id AS TEXT), 'a record ' || CAST(debit.request_id AS TEXT), 'none'
FROM ledger_entry AS debit LEFT JOIN usage_record AS record ON record.request_id = debit.request_id
WHERE debit.request_id IS NOT NULL AND record.request_id IS NULL
"""

TWICE = """
SELECT '{table} ' || CAST({name} AS TEXT), 'once', CAST(count(*) AS TEXT) || ' times'
FROM {table} WHERE {name} IS NOT NULL GROUP BY {name} HAVING count(*) > 1
"""

# Invariant 5: numbers without gaps, and each balance is the one before plus the amount.
SEQUENCE = """
SELECT 'ledger_entry ' || CAST(entry_id AS TEXT) || ' of ' || workspace_id,
    'seq ' || CAST(before_seq + 1 AS TEXT) || ', balance ' || CAST(before_pico + amount_pico AS TEXT),
    'seq ' || CAST(seq AS TEXT) || ', balance ' || CAST(balance_after_pico AS TEXT)
FROM (
    SELECT entry_id, workspace_id, seq, amount_pico, balance_after_pico,
        COALESCE(LAG(seq) OVER books, 0) AS before_seq,
        CAST(COALESCE(LAG(balance_after_pico) OVER books, 0) AS NUMERIC) AS before_pico
    FROM ledger_entry WINDOW books AS (PARTITION BY workspace_id ORDER BY seq)
) AS entry WHERE seq <> before_seq + 1 OR balance_after_pico <> before_pico + amount_pico
"""

# Invariant 5: what the workspaces have is what the counter-accounts gave.
TRIAL_BALANCE = """
SELECT 'all accounts', 'a sum of ' || CAST(moved AS TEXT), CAST(held AS TEXT) FROM (
    SELECT COALESCE(SUM(CAST(amount_pico AS NUMERIC)), 0) AS moved, (
        SELECT COALESCE(SUM(CAST(last.balance_after_pico AS NUMERIC)), 0) FROM ledger_entry AS last JOIN (
            SELECT workspace_id, MAX(seq) AS seq FROM ledger_entry GROUP BY workspace_id
        ) AS head ON head.workspace_id = last.workspace_id AND head.seq = last.seq
    ) AS held FROM ledger_entry
) AS sums WHERE moved <> held
"""

# Invariant 4: a correction names what it reverses, has the other sign, and all of them are no more than it.
REVERSAL = """
SELECT 'ledger_entry ' || CAST(original.entry_id AS TEXT),
    'at most ' || CAST(original.amount_pico AS TEXT) || ' reversed',
    CAST(SUM(CAST(reversal.amount_pico AS NUMERIC)) AS TEXT)
FROM ledger_entry AS reversal JOIN ledger_entry AS original ON original.entry_id = reversal.reverses
GROUP BY original.entry_id, original.amount_pico
HAVING CASE WHEN original.amount_pico < 0
    THEN SUM(CAST(reversal.amount_pico AS NUMERIC)) > -original.amount_pico OR MIN(reversal.amount_pico) < 0
    ELSE SUM(CAST(reversal.amount_pico AS NUMERIC)) < -original.amount_pico OR MAX(reversal.amount_pico) > 0 END
"""

# Spend limits: what a key spent on a day is the sum of its records. The day is the beginning of a time's text, in UTC.
SPEND = """
SELECT 'key_spend ' || key_id || ' ' || day, CAST(SUM(recorded) AS TEXT), CAST(SUM(kept) AS TEXT) FROM (
    SELECT key_id, {day} AS day, CAST(cost_pico AS NUMERIC) AS recorded, 0 AS kept FROM usage_record
    UNION ALL SELECT key_id, day, 0, CAST(cost_pico AS NUMERIC) FROM key_spend
) AS both_sides GROUP BY key_id, day HAVING SUM(recorded) <> SUM(kept)
"""
DAYS: Final = {
    "postgresql": "COALESCE(to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), CAST(recorded_at AS TEXT))",
    "sqlite": "substr(recorded_at, 1, 10)",
}

# What is booked belongs to somebody. Keys are no part of an export: books replayed from one have none, and miss none.
ORPHAN = """
SELECT 'workspace ' || booked.workspace_id, 'there, for ' || CAST(count(*) AS TEXT) || ' records and entries', 'none'
FROM (SELECT workspace_id FROM usage_record UNION ALL SELECT workspace_id FROM ledger_entry) AS booked
LEFT JOIN workspace ON workspace.id = booked.workspace_id WHERE workspace.id IS NULL GROUP BY booked.workspace_id
UNION ALL
SELECT 'api_key ' || record.key_id, 'there, for ' || CAST(count(*) AS TEXT) || ' records', 'none'
FROM usage_record AS record LEFT JOIN api_key ON api_key.id = record.key_id
WHERE api_key.id IS NULL AND EXISTS (SELECT 1 FROM api_key) GROUP BY record.key_id
"""

QUERIES: Final = {
    "cost": COST,
    "debit": DEBIT,
    "stray debit": STRAY,
    "request once": TWICE.format(table="usage_record", name="request_id"),
    "debit once": TWICE.format(table="ledger_entry", name="request_id"),
    "sequence": SEQUENCE,
    "trial balance": TRIAL_BALANCE,
    "reversal": REVERSAL,
    "spend": SPEND,
    "orphan": ORPHAN,
}
"""The queries by the name of what they check."""


def violations(connection: Connection, check: str) -> Iterator[Finding]:
    """What one of the queries finds."""
    for row, expected, found in connection.execute(
        text(QUERIES[check].replace("{day}", DAYS[connection.dialect.name]))
    ):
        yield Finding(check, row or "a row whose name is null", str(expected), str(found))
