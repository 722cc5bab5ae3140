"""A receipt is proved by the file and the public key alone; whatever was changed in it shows."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from services.billing.books import Books
from services.billing.checkpoint import PublicKey
from services.billing.keys import make_key
from services.billing.ledger import Ledger
from services.billing.receipts import receipt_findings
from services.billing.signer import Signer
from tests.integration.billing.test_proofs import opentoken
from tests.unit.billing.events import usage

PAID, FREE = "019c1000-0000-7000-8000-000000000001", "019c1000-0000-7000-8000-000000000002"


@pytest.fixture
def key(engine: Engine, ledger: Ledger, tmp_path: Path) -> PublicKey:
    """The key of the signed books."""
    event, free = usage(request_id=PAID), usage(request_id=FREE, outcome="upstream_failed", endpoint="embeddings")
    ledger.record([usage("a"), event, free, usage("a")])
    key = make_key(tmp_path / "key")
    Signer(engine, 1, key, tmp_path / "checkpoints").sign_all()
    return key.public


@pytest.fixture
def receipt(engine: Engine, key: PublicKey) -> dict[str, Any]:
    """As it is answered: through JSON."""
    return json.loads(json.dumps(Books(engine).receipt(PAID, None)))


def checks(receipt: Any, key: PublicKey) -> set[str]:
    return {finding.check for finding in receipt_findings(receipt, [key])}


def test_receipts_of_paid_and_of_free_requests_prove_themselves(
    engine: Engine, receipt: dict[str, Any], key: PublicKey
) -> None:
    assert checks(receipt, key) == set()
    assert checks(Books(engine).receipt(FREE, None), key) == set()


def test_a_change_of_anything_that_a_receipt_shows_is_found(receipt: dict[str, Any], key: PublicKey) -> None:
    for shown in (receipt, receipt["debit"]):
        for name in shown.keys() - {"debit", "proof"}:
            kept, shown[name] = shown[name], "another"
            assert checks(receipt, key) == {"shown"}, name
            shown[name] = kept
    assert checks(receipt | {"discount": "1"}, key) == {"shown"}
    assert checks({name: receipt[name] for name in receipt if name != "cost_usd"}, key) == {"shown"}


def test_a_number_or_truth_value_of_another_type_is_found_in_a_receipt(receipt: dict[str, Any], key: PublicKey) -> None:
    for shown, name, value in (
        (receipt, "stream", 0),
        (receipt, "duration_ms", 1200.0),
        (receipt["tokens"], "cache_write", False),
        (receipt["attempts"][0], "status", 200.0),
        (receipt["debit"], "seq", True),
        (receipt["debit"], "leaf_index", float(receipt["debit"]["leaf_index"])),
    ):
        kept, shown[name] = shown[name], value
        assert shown[name] == kept, "equal to Python, and not the same"
        assert checks(receipt, key) == {"shown"}, name
        shown[name] = kept


@pytest.mark.parametrize("part", ["record", "debit"])
def test_a_change_of_any_part_of_a_proof_is_found(receipt: dict[str, Any], key: PublicKey, part: str) -> None:
    for name, value in (
        ("leaf", lambda leaf: leaf.replace("billing", "mallory") if part == "debit" else leaf.replace("google", "g")),
        ("leaf", lambda leaf: leaf + " "),
        ("leaf_index", lambda index: index + 1),
        ("leaf_index", float),
        ("leaf_index", str),
        ("tree_size", lambda size: size + 1),
        ("tree_size", float),
        ("tree_size", None),
        ("shard", lambda shard: shard + 9),
        ("shard", bool),
        ("shard", None),
        ("path", lambda path: path[:-1]),
        ("path", lambda path: [*path, path[0]]),
        ("path", lambda path: ["no base64!", *path[1:]]),
        ("checkpoint", lambda note: note.replace("\n7\n", "\n8\n")),
        ("checkpoint", lambda note: note.rpartition("\n\n")[0]),
    ):
        changed = copy.deepcopy(receipt)
        proof = changed["proof"] if part == "record" else changed["debit"]["proof"]
        before = proof.pop(name)
        if value is not None:
            proof[name] = value(before)
            assert repr(proof[name]) != repr(before), name
        assert checks(changed, key) == {"proof"}, (name, proof.get(name))


def test_a_truth_value_is_no_leaf_index(engine: Engine, ledger: Ledger, tmp_path: Path) -> None:
    event = usage()
    ledger.record([usage(outcome="upstream_failed"), event])
    Signer(engine, 1, key := make_key(tmp_path / "key"), tmp_path / "checkpoints").sign_all()
    receipt = Books(engine).receipt(event.request_id, None)
    assert receipt["proof"]["leaf_index"] == 1
    receipt["proof"]["leaf_index"] = True
    assert checks(receipt, key.public) == {"proof"}


def test_a_debit_that_is_left_out_or_is_another_requests_is_found(
    engine: Engine, receipt: dict[str, Any], key: PublicKey
) -> None:
    assert checks(receipt | {"debit": None}, key) == {"debit"}
    free = Books(engine).receipt(FREE, None)
    assert checks(free | {"debit": receipt["debit"]}, key) == {"debit"}
    assert checks(receipt | {"proof": receipt["debit"]["proof"]}, key) == {"proof"}


def test_a_receipt_that_is_not_yet_signed_says_when_it_will_be(ledger: Ledger, engine: Engine, key: PublicKey) -> None:
    ledger.record([event := usage()])
    (finding,) = receipt_findings(Books(engine).receipt(event.request_id, None), [key])
    assert "next signed checkpoint" in finding.expected


def test_a_key_that_did_not_sign_proves_nothing(receipt: dict[str, Any], tmp_path: Path) -> None:
    assert checks(receipt, make_key(tmp_path / "other").public) == {"proof"}


def test_a_receipt_is_verified_offline_by_the_command(receipt: dict[str, Any], key: PublicKey, tmp_path: Path) -> None:
    file, keys = tmp_path / "receipt.json", tmp_path / "key.pub"
    for text, expected in (
        (json.dumps(receipt), 0),
        (json.dumps(receipt | {"cost_usd": "0"}), 1),
        ("{}", 2),
        ("[]", 2),
        ("no", 2),
        (f"\ufeff{json.dumps(receipt)}", 0),
        (json.dumps(receipt | {"proof": {"leaf": 1}}), 2),
    ):
        file.write_text(text)
        code, _, err = opentoken("receipt", "verify", file, "--key", keys, OPENTOKEN_DATABASE_URL="sqlite:////nowhere")
        assert code == expected, (text, err)
        assert "Traceback" not in err
    file.write_text('{"error": {"message": "generation not found", "type": "invalid_request_error", "code": null}}')
    code, _, err = opentoken("receipt", "verify", file, "--key", keys)
    assert code == 2
    assert "is an error answer, no receipt: generation not found" in err


def test_what_could_not_be_checked_of_a_receipt_is_said_with_exit_code_2(
    ledger: Ledger, engine: Engine, receipt: dict[str, Any], tmp_path: Path
) -> None:
    ledger.record([event := usage()])
    (tmp_path / "empty.pub").touch()
    proved, unsigned = json.dumps(receipt), Books(engine).receipt(event.request_id, None)
    half = json.dumps(receipt | {"debit": receipt["debit"] | {"proof": None}})
    for text, key, expected, said in (
        (json.dumps(unsigned), "key.pub", 2, "cannot be checked yet, for want of a proof; it comes with"),
        (half, "key.pub", 2, "cannot be checked yet"),
        (json.dumps(json.loads(half) | {"cost_usd": "0"}), "key.pub", 1, "2 findings"),
        (proved, "empty.pub", 2, "empty.pub holds no public key"),
        (proved, "key", 2, f"this is the private key, which is shown to nobody: give {tmp_path / 'key.pub'}"),
    ):
        (tmp_path / "receipt.json").write_text(text)
        code, _, err = opentoken("receipt", "verify", tmp_path / "receipt.json", "--key", tmp_path / key)
        assert (code, said in err) == (expected, True), err
