"""A receipt proved without us: from the file itself and the log's public key, with no network and no database.

What a receipt shows must be what its leaves say, and a signed checkpoint must hold those leaves.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.billing.books import debit_json
from services.billing.checkpoint import NoteError, PublicKey, verified
from services.billing.database import Row
from services.billing.invariants import Finding
from services.billing.leaves import Kind, LeafError, read
from services.billing.merkle import leaf_hash, verify_inclusion
from services.billing.records import RATES, json_of
from shared.events import BILLED

UNPROVEN = "a proof; it comes with the next signed checkpoint, within seconds: fetch the receipt again"


def receipt_findings(receipt: Mapping[str, Any], keys: Sequence[PublicKey]) -> Iterator[Finding]:
    """All that is wrong with a receipt, as `GET /v1/generations/{id}` gave it. Raises KeyError, TypeError, ValueError
    where it is no receipt at all.
    """
    record, problems = _proved("receipt", "usage/1", receipt["proof"], keys)
    yield from problems
    if record is None:
        return
    yield from _shown("receipt", receipt, json_of(record))
    owed = sum(record[f"{name}_tokens"] * record[f"{name}_rate_pico"] for name in RATES)
    if record["cost_pico"] != (expected := owed if record["outcome"] in BILLED else 0):
        yield Finding("cost", "receipt", str(expected), str(record["cost_pico"]))
    yield from _debit(record, receipt["debit"], keys)


def unproven(finding: Finding) -> bool:
    """Whether it is only that there is no proof yet, so that nothing could be checked."""
    return finding.check == "proof" and finding.expected == UNPROVEN


def _debit(record: Row, debit: Mapping[str, Any] | None, keys: Sequence[PublicKey]) -> Iterator[Finding]:
    if debit is None:
        if record["cost_pico"]:
            yield Finding("debit", "receipt", f"a debit of {record['cost_pico']}", "none")
        return
    entry, problems = _proved("debit", "entry/1", debit["proof"], keys)
    yield from problems
    if entry is None:
        return
    yield from _shown("debit", debit, debit_json(entry))
    found = (entry["request_id"], entry["workspace_id"], entry["amount_pico"])
    if found != (expected := (record["request_id"], record["workspace_id"], -record["cost_pico"])):
        yield Finding("debit", "debit", " ".join(map(str, expected)), " ".join(map(str, found)))


def _proved(
    part: str, kind: Kind, proof: Mapping[str, Any] | None, keys: Sequence[PublicKey]
) -> tuple[Row | None, list[Finding]]:
    """The row in a proof's leaf, and what is wrong with the proof."""
    if proof is None:
        return None, [Finding("proof", part, UNPROVEN, "none")]
    leaf = proof["leaf"].encode()
    try:
        found, row = read(leaf)
        checkpoint = verified(proof["checkpoint"], keys)
        path = [base64.b64decode(hash_, validate=True) for hash_ in proof["path"]]
    except (LeafError, NoteError, binascii.Error) as error:
        return None, [Finding("proof", part, "a leaf, a path and a checkpoint signed with a key given", str(error))]
    if found != kind or not checkpoint.origin.endswith(f"/{row['shard']}"):
        return None, [Finding("proof", part, f"a leaf {kind} of {checkpoint.origin}", f"{found} of {row['shard']}")]
    index = proof["leaf_index"]
    if type(index) is not int or not verify_inclusion(leaf_hash(leaf), index, checkpoint.size, path, checkpoint.root):
        tree = f"in the tree of {checkpoint.size} leaves with root {checkpoint.root.hex()}"
        return None, [Finding("proof", part, tree, "the path does not lead there")]
    told = {name: proof.get(name) for name in ("shard", "tree_size")}
    if not _same(told, expected := {"shard": row["shard"], "tree_size": checkpoint.size}):
        return None, [Finding("proof", part, str(expected), str(told))]
    return row | {"leaf_index": index}, []


def _shown(part: str, shown: Mapping[str, Any], proved: Mapping[str, Any]) -> Iterator[Finding]:
    for name in sorted((shown.keys() | proved.keys()) - {"debit", "proof"}):
        if name not in shown or name not in proved or not _same(shown[name], proved[name]):
            yield Finding("shown", f"{part}.{name}", str(proved.get(name)), str(shown.get(name)))


def _same(one: object, other: object) -> bool:
    """Whether both are the same JSON; Python would take 1, 1.0 and true for equal."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
