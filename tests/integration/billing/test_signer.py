import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import pytest_asyncio
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from services.billing import keys, merkle, signer
from services.billing.checkpoint import NoteError, verified
from services.billing.consumer import handler
from services.billing.database import Threads
from services.billing.keys import make_key, public_file, read_key, read_public_keys
from services.billing.leaves import read
from services.billing.ledger import Credit, Ledger
from services.billing.settings import BillingSettings
from services.billing.signer import LATEST, Signer, make_signer
from shared.bus import Message
from shared.events import Encoded, batch
from tests.integration.billing.books import TEN_USD
from tests.integration.billing.service import ADMIN, AUDITOR, INTERNAL, Service, running, until
from tests.unit.billing.events import usage


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    make_key(tmp_path / "signing.key")
    return tmp_path / "signing.key"


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def made(engine: Engine, key_file: Path, exported: Path) -> Signer:
    return Signer(engine, 1, read_key(key_file), exported)


def names(exported: Path) -> list[str]:
    return sorted(path.name.lstrip("0") for path in (exported / "0").iterdir())


def hashes(texts: list[str]) -> list[bytes]:
    return [base64.b64decode(each) for each in texts]


def test_a_signed_checkpoint_is_exported_whole_and_again_after_the_directory_was_lost(
    ledger: Ledger, made: Signer, key_file: Path, exported: Path, tmp_path: Path
) -> None:
    known = read_public_keys(public_file(key_file))
    for size in (2, 4):
        ledger.record([usage()])
        made.sign_all()
        assert verified((exported / "0" / LATEST).read_text("utf-8"), known).size == size
    made.sign_all()  # nothing grew
    assert names(exported) == ["2", "4", LATEST]

    exported.rename(tmp_path / "away")
    made.sign_all()
    for name in ("2", "4"):
        old, new = (folder / "0" / name.zfill(20) for folder in (tmp_path / "away", exported))
        assert old.read_text("utf-8") == new.read_text("utf-8")


def test_an_empty_ledger_is_not_signed(ledger: Ledger, made: Signer, exported: Path) -> None:
    made.sign_all()
    assert not exported.exists() or names(exported) == []


def test_where_the_directory_is_away_the_checkpoint_is_kept_and_exported_later(
    ledger: Ledger, made: Signer, exported: Path
) -> None:
    exported.write_text("a file, where a directory belongs")
    ledger.record([usage()])
    with pytest.raises(OSError, match="Not a directory"):
        made.sign_all()
    exported.unlink()
    made.sign_all()
    assert names(exported) == ["2", LATEST]


@pytest.mark.parametrize("garbled", [b"", b"\xff\xfe", b"no note\n"], ids=["empty", "no text", "no note"])
def test_a_latest_that_is_no_note_is_told_and_not_written_over(
    ledger: Ledger, made: Signer, exported: Path, garbled: bytes
) -> None:
    ledger.record([usage()])
    made.sign_all()
    latest = exported / "0" / LATEST
    latest.write_bytes(garbled)
    ledger.record([usage()])
    with pytest.raises(ValueError, match=r"not a checkpoint|decode"):
        made.sign_all()
    assert latest.read_bytes() == garbled


async def test_a_directory_that_hangs_or_is_garbled_holds_up_neither_the_books_nor_the_signatures(
    service: Service, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(*_: Any) -> None:
        hangs.set()
        goes_on.wait()
        raise ValueError("no note")

    monkeypatch.setattr(signer, "write_file", hang)
    monkeypatch.setattr(signer, "SIGN_AFTER_S", 0.01)
    try:
        for _ in range(2):
            event = usage("demo")
            await service.publish(event)
            await until(partial(_proved, service, event.request_id))
            await until(partial(asyncio.to_thread, hangs.is_set))
    finally:
        goes_on.set()


def test_what_is_new_is_signed_at_once_then_after_a_while_or_when_it_is_much(
    ledger: Ledger, made: Signer, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(signer.time, "monotonic", lambda: now_s)  # type: ignore[attr-defined]  # its clock
    monkeypatch.setattr(signer, "SIGN_LEAVES", 10)
    for events, elapsed_s, signed in ((1, 0.0, True), (1, 4.9, False), (0, 0.2, True), (4, 0.1, False), (1, 0.0, True)):
        now_s += elapsed_s
        before = names(exported) if exported.exists() else []
        ledger.record([usage() for _ in range(events)])
        made.sign_due()
        made.export_new()
        assert (names(exported) != before) == signed, (events, elapsed_s)


async def test_however_large_the_batches_checkpoints_are_no_further_apart_than_promised(
    ledger: Ledger, made: Signer, engine: Engine, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert signer.SIGN_LEAVES + signer.BATCH_LEAVES <= signer.APART_LEAVES
    monkeypatch.setattr(signer, "SIGN_LEAVES", 6)  # and no batch here is of more leaves than that
    monkeypatch.setattr(signer, "SIGN_AFTER_S", 3600)
    ledger.record([usage()])
    made.sign_due()
    threads = Threads()
    post = handler(Ledger(engine, grown=made.grown), threads)
    events = [[Encoded.of(usage(), "test").body for _ in range(count)] for count in (1, 1, 3, 2, 3, 1, 1, 1, 2, 3, 2)]
    await asyncio.gather(*(post([Message(batch(bodies))]) for bodies in events))
    threads.close()
    made.export_new()
    sizes = [0, *(int(name) for name in names(exported) if name != LATEST)]
    sizes.sort()
    assert len(sizes) > 4
    assert max(after - before for before, after in pairwise([*sizes, 42])) <= 12


def test_a_checkpoint_that_cannot_be_signed_within_a_batch_is_told_and_the_batch_stands(
    ledger: Ledger, made: Signer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signer, "SIGN_LEAVES", 1)
    signing = Ledger(engine, grown=made.grown)

    def newest() -> Any:
        with engine.connect() as connection:
            return connection.scalar(text("SELECT max(tree_size) FROM signed_checkpoint"))

    with monkeypatch.context() as away:
        away.setattr(signer, "insert", lambda _: text("INSERT INTO nowhere VALUES (1)"))
        assert signing.record([usage()]) == {"recorded": 1}
    assert newest() is None
    signing.record([usage()])
    assert newest() == 4


def test_what_was_signed_within_a_batch_that_was_not_committed_is_signed_and_exported_when_it_comes_again(
    ledger: Ledger, made: Signer, engine: Engine, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signer, "SIGN_LEAVES", 1)
    monkeypatch.setattr(signer, "SIGN_AFTER_S", 3600)
    signing, event = Ledger(engine, grown=made.grown), usage()
    with monkeypatch.context() as away:
        away.setattr("services.billing.ledger.spend.add", Mock(side_effect=OperationalError("", {}, Exception())))
        with pytest.raises(OperationalError):
            signing.record([event])
    made.export_new()
    signing.record([event])
    made.export_new()  # too early: within the batch nobody could know that it would be committed
    made.sign_due()
    made.export_new()
    assert names(exported) == ["2", LATEST]


def test_a_directory_that_was_lost_is_written_again_though_nothing_new_is_signed(
    ledger: Ledger, made: Signer, engine: Engine, key_file: Path, exported: Path, tmp_path: Path
) -> None:
    ledger.record([usage()])
    made.sign_due()
    made.export_new()
    exported.rename(tmp_path / "away")
    made.export_new()
    assert names(exported) == ["2", LATEST]
    again = Signer(engine, 1, read_key(key_file), exported)  # which finds all there
    again.export_new()
    exported.rename(tmp_path / "away, too")
    again.export_new()
    assert names(exported) == ["2", LATEST]


def test_a_signed_size_is_the_database_s_own_and_cannot_be_signed_twice(
    ledger: Ledger, made: Signer, engine: Engine, key_file: Path
) -> None:
    ledger.record([usage()])
    made.sign_all()
    Signer(engine, 1, read_key(key_file), None).sign_all()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM signed_checkpoint")) == 1


def test_a_key_that_cannot_be_read_is_said_at_the_start_and_a_missing_one_is_allowed(
    engine: Engine, tmp_path: Path
) -> None:
    required: dict[str, Any] = {
        "database_url": "sqlite:///x", "admin_token": ADMIN, "auditor_token": AUDITOR, "internal_token": INTERNAL,
    }  # fmt: skip
    assert make_signer(engine, BillingSettings(**required)) is None
    with pytest.raises(NoteError, match=r"python -m services\.billing\.keys FILE"):
        make_signer(engine, BillingSettings(**required, signing_key_file=tmp_path / "none"))


@pytest_asyncio.fixture
async def service(engine: Engine, key_file: Path, exported: Path) -> AsyncIterator[Service]:
    url = engine.url.render_as_string(hide_password=False)
    async with running(
        url, bootstrap_key="a-key-of-any-form", signing_key_file=key_file, checkpoint_dir=exported
    ) as service:
        yield service


async def test_a_receipt_is_proved_as_soon_as_a_signed_checkpoint_covers_it(service: Service, key_file: Path) -> None:
    known = read_public_keys(public_file(key_file))
    event = usage("demo")
    await service.publish(event)
    await until(partial(_proved, service, event.request_id))
    receipt = await service.get(f"/v1/generations/{event.request_id}")
    for proof, kind in ((receipt["proof"], "usage/1"), (receipt["debit"]["proof"], "entry/1")):
        signed = verified(proof["checkpoint"], known)
        assert signed.size == proof["tree_size"]
        found, row = read(proof["leaf"].encode())
        assert (found, row["request_id"]) == (kind, event.request_id)
        hash_ = merkle.leaf_hash(proof["leaf"].encode())
        path = hashes(proof["path"])
        assert merkle.verify_inclusion(hash_, proof["leaf_index"], signed.size, path, signed.root)


async def test_auditors_read_checkpoints_and_prove_leaves_and_growth_by_them(
    service: Service, engine: Engine, key_file: Path
) -> None:
    known = read_public_keys(public_file(key_file))
    made, ledger = Signer(engine, 1, read_key(key_file), None), Ledger(engine)
    for number in range(3):
        ledger.credit(Credit("demo", TEN_USD, f"payment-{number}", "admin"))
        made.sign_all()
    listed = (await service.get("/v1/checkpoints"))["data"]
    assert [each["tree_size"] for each in listed][-3:] == [2, 3, 4]
    first = await service.get("/v1/checkpoints?limit=1")
    second = await service.get(f"/v1/checkpoints?limit=1&cursor={first['next_cursor']}")
    assert [*first["data"], *second["data"]] == listed[:2]
    newest = await service.get("/v1/checkpoints/latest")
    assert newest == await service.get("/v1/checkpoints/4") == listed[-1]
    root = verified(newest["checkpoint"], known).root
    assert base64.b64decode(newest["root"]) == root

    for index in range(4):
        proof = await service.get(f"/v1/proofs/inclusion?leaf_index={index}")
        (hash_,) = hashes([proof["leaf_hash"]])
        assert merkle.verify_inclusion(hash_, index, 4, hashes(proof["path"]), root)
    await service.get("/v1/proofs/inclusion?leaf_index=2&tree_size=2", 404)
    grown = await service.get("/v1/proofs/consistency?first=2")
    old = verified(grown["first_checkpoint"], known)
    assert merkle.verify_consistency(2, 4, old.root, root, hashes(grown["path"]))
    for first, second in ((3, 2), (14, 1)):  # whether there are such trees, or not
        refused = await service.get(f"/v1/proofs/consistency?first={first}&second={second}", 400)
        assert "exchange first and second" in refused["error"]["message"]


async def _proved(service: Service, request_id: str) -> bool:
    receipt = await service.get(f"/v1/generations/{request_id}")
    return receipt["proof"] is not None and receipt["debit"]["proof"] is not None


def test_a_deployment_may_ask_for_the_key_at_every_start_without_replacing_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "signing.key"
    monkeypatch.setattr("sys.argv", ["keys", "--unless-there", str(file)])
    keys.main()
    first = read_public_keys(public_file(file))
    keys.main()
    assert read_public_keys(public_file(file)) == first
    assert capsys.readouterr().out.endswith(f"{file} is there\n")
    monkeypatch.setattr("sys.argv", ["keys", str(file)])
    keys.main()
    assert len(read_public_keys(public_file(file))) == 2
