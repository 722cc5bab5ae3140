"""The books, held against what clients saw and against the provider's own log of what it served."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.money import pico_usd
from tests.e2e.stacks import Stack
from tests.faults.cluster import CREDIT_USD, Cluster
from tests.faults.witness import Witness

CREDIT_PICO = pico_usd(str(CREDIT_USD))
NOTHING_BEGUN = {"no_supplier", "billing_unavailable", "insufficient_credits", "spend_limit_exceeded"}


@dataclass(frozen=True, slots=True)
class Books:
    """What was found.

    `difference_pico`: of what clients read from what they were charged, of records from their debits, of all that
    from the balance. `unseen`: the outcomes of requests on record whose client did not see a whole answer.
    """

    whole: int
    records: int
    debits: int
    lost: list[str]
    doubled: list[str]
    difference_pico: int
    charged_refusals: list[str]
    unlike_served: list[str]
    unseen: Counter[str]

    def assert_exact(self) -> None:
        """Each whole answer is billed once, at the price that was read, for what was served; no refusal is billed."""
        assert (self.lost, self.doubled, self.difference_pico) == ([], [], 0)
        assert (self.charged_refusals, self.unlike_served) == ([], [])


def compare(cluster: Cluster, account: Stack, witness: Witness) -> Books:
    """The books of an account whose calls have ended, once all that was under way has arrived."""
    cluster.quiesce()
    records = account.records()
    debits = [entry for entry in account.entries() if entry["contra"] == "revenue"]
    recorded = {record["request_id"]: record for record in records}
    charged = {debit["request_id"]: -int(debit["amount_pico_usd"]) for debit in debits}
    whole = {str(call.request_id): call for call in witness.whole}
    assert len(whole) == len(witness.whole), "two answers had one id"
    refused = [str(call.request_id) for call in witness.seen("refused") if call.code in NOTHING_BEGUN]
    return Books(
        whole=len(whole),
        records=len(records),
        debits=len(debits),
        lost=[name for name in whole if name not in charged or recorded[name]["outcome"] != "completed"],
        doubled=_repeated(records) + _repeated(debits),
        difference_pico=(
            sum(abs(call.cost_pico - charged.get(name, 0)) for name, call in whole.items())
            + sum(abs(int(record["cost_pico_usd"]) - charged.get(name, 0)) for name, record in recorded.items())
            + abs(CREDIT_PICO - sum(charged.values()) - account.balance_pico())
        ),
        charged_refusals=[name for name in refused if name in charged],
        unlike_served=_unlike_served(records, cluster.served_log),
        unseen=Counter(record["outcome"] for name, record in recorded.items() if name not in whole),
    )


def _repeated(rows: list[dict[str, Any]]) -> list[str]:
    """Requests with more than one of these rows."""
    return [name for name, count in Counter(row["request_id"] for row in rows).items() if count > 1]


def _unlike_served(records: list[dict[str, Any]], log: Path) -> list[str]:
    """Completed requests that the provider does not know, or counts otherwise, or that two records claim."""
    served = {entry["upstream_request_id"]: entry["tokens"] for entry in map(json.loads, log.read_text().splitlines())}
    completed = [record for record in records if record["outcome"] == "completed"]
    return [one["request_id"] for one in completed if served.pop(one["upstream_request_id"], None) != one["tokens"]]
