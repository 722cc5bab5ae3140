import random
import statistics
import time
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, func, insert, select, text

from services.billing import tree
from services.billing.accounts import Accounts
from services.billing.database import Row, reading, rows, writing
from services.billing.leaves import leaf
from services.billing.ledger import Credit, Ledger, known_records
from services.billing.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    nodes_before,
    split,
    verify_consistency,
    verify_inclusion,
)
from services.billing.tables import checkpoint, ledger_entry, usage_record
from shared.events import UsageRecorded
from shared.ids import new_id
from shared.money import Tokens
from tests.integration.billing.books import TEN_USD
from tests.unit.billing import rfc6962
from tests.unit.billing.events import usage, usages

READ = "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_xact_user_tables"  # so far in this session


def leaves_of(engine: Engine, shard: int = 0) -> list[bytes]:
    """The leaves as an auditor makes them: from the columns, in the order of leaf_index."""
    found: dict[int, bytes] = {}
    with reading(engine) as connection:
        for kind, table in (("usage/1", usage_record), ("entry/1", ledger_entry)):
            for row in rows(connection, select(table).where(table.c.shard == shard)):
                assert row["leaf_index"] not in found
                found[row["leaf_index"]] = leaf(kind, row)  # type: ignore[arg-type]  # the two kinds there are
    assert sorted(found) == list(range(len(found)))
    return [found[index] for index in sorted(found)]


def checkpoints(engine: Engine, shard: int = 0) -> list[Row]:
    with reading(engine) as connection:
        return rows(connection, select(checkpoint).where(checkpoint.c.shard == shard).order_by(checkpoint.c.tree_size))


def check(engine: Engine, shard: int = 0) -> None:
    """The whole tree, made anew from the rows, is the one that was kept with them."""
    leaves, kept = leaves_of(engine, shard), checkpoints(engine, shard)
    whole, nodes = Frontier().extend(map(leaf_hash, leaves))
    assert split(b"".join(each["nodes"] for each in kept)) == nodes
    for each in kept:
        assert each["root"] == rfc6962.mth(leaves[: each["tree_size"]])
        assert Frontier.from_bytes(each["tree_size"], each["frontier"]).root() == each["root"]
    assert [each["tree_size"] for each in kept][-1:] == ([len(leaves)] if leaves else [])
    with reading(engine) as connection:
        assert tree.frontier(connection, shard) == whole


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(usages, max_size=6), max_size=4))
def test_every_row_has_its_leaf_and_each_batch_its_checkpoint(
    engine: Engine, ledger: Ledger, batches: list[list[UsageRecorded]]
) -> None:
    for batch in batches:
        ledger.record([event.model_copy(update={"request_id": new_id()}) for event in batch])
    check(engine)


def test_a_leaf_is_the_same_whichever_database_gives_back_its_row(engine: Engine, ledger: Ledger) -> None:
    """The columns of every type at their extremes: a year's end, wide text, the widest balance."""
    ledger.credit(Credit("w", 2**63 - 1, "payment-№1", "admin", reason="Ångström"))
    ledger.record([usage(upstream_model='a"b\\c\n模型', started_at="2026-12-31T23:59:59.999999+05:30")])
    ledger.record([usage(upstream_usage={"text": "Cafe\u0301", "cost": 1e-7}, user_digest="")])
    ledger.record([usage(upstream_model="Cafe\u0301", tokens=Tokens(0, 0, 0, 0, 1, 0))])
    check(engine)
    assert b'"started_at":"2026-12-31T18:29:59.999999Z"' in leaves_of(engine)[1]
    assert "Café".encode() in leaves_of(engine)[5]


def test_credits_and_requests_that_cost_nothing_are_leaves_like_all_others(engine: Engine, ledger: Ledger) -> None:
    ledger.credit(Credit("w", TEN_USD, "payment-1", "admin"))
    ledger.record([usage(outcome="upstream_failed"), usage()])
    assert [b'"k":"usage/1"' in made for made in leaves_of(engine)] == [False, True, True, False]
    check(engine)


def test_what_changes_nothing_adds_no_leaf_and_no_checkpoint(engine: Engine, ledger: Ledger) -> None:
    event, credit = usage(), Credit("w", TEN_USD, "payment-1", "admin")
    ledger.record([event])
    ledger.credit(credit)
    before = checkpoints(engine)
    ledger.record([event, usage("nobody")])
    ledger.credit(credit)
    assert checkpoints(engine) == before


def test_every_leaf_and_every_earlier_tree_is_proved_from_what_is_stored(engine: Engine, ledger: Ledger) -> None:
    for size in (1, 3, 2, 5, 1):
        ledger.record([usage() for _ in range(size)])
    leaves, kept = leaves_of(engine), checkpoints(engine)
    with reading(engine) as connection:
        prove = partial(tree.proved, connection, 0)
        for newest in kept:
            size = newest["tree_size"]
            for index in range(size):
                path = prove(partial(inclusion_proof, index=index, size=size))
                assert verify_inclusion(leaf_hash(leaves[index]), index, size, path, newest["root"])
            for old in kept:
                if (first := old["tree_size"]) <= size:
                    path = prove(partial(consistency_proof, first=first, second=size))
                    assert verify_consistency(first, size, old["root"], newest["root"], path)
        with pytest.raises(LookupError):
            prove(lambda read: read(0, len(leaves)))


def test_each_shard_has_a_tree_of_its_own(engine: Engine) -> None:
    ledger = Ledger(engine, 3)
    for name in "abcdef":
        Accounts(engine).create_workspace(name, name)
    ledger.record([usage(name) for name in "abcdefabc"])
    for shard in range(3):
        check(engine, shard)
    assert sum(len(leaves_of(engine, shard)) for shard in range(3)) == 18


@pytest.mark.parametrize("held", [0, 1_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_the_probe_for_known_requests_goes_by_the_index_however_full_the_books_are(
    postgres_engine: Engine, held: int
) -> None:
    engine = postgres_engine
    Accounts(engine).create_workspace("w", "w")
    Ledger(engine).record([usage()])
    with engine.begin() as connection:
        columns = ", ".join(usage_record.c.keys()[1:])
        connection.execute(
            text(
                f"INSERT INTO usage_record (request_id, {columns}) SELECT gen_random_uuid(), {columns} "
                f"FROM usage_record, generate_series(1, {held})"
            )
        )
        assert connection.scalar(select(func.count()).select_from(usage_record)) == held + 1
    ids = [new_id() for _ in range(500)]
    compiled = known_records(ids, "postgresql").compile(dialect=engine.dialect)
    with writing(engine, 0) as connection:
        plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {compiled}", compiled.params))
    assert "Seq Scan" not in plan, plan
    assert "Index" in plan


def test_what_a_batch_reads_does_not_grow_with_the_books(postgres_engine: Engine) -> None:
    """As it did when the insert guard's look-up went by the wrong index: every entry read all of its workspace's."""
    Accounts(postgres_engine).create_workspace("w", "w")
    ledger = Ledger(postgres_engine)

    @event.listens_for(postgres_engine, "commit")
    def note(connection: Connection) -> None:
        rows_read.append(int(connection.scalar(text(READ)) or 0))

    rows_read: list[int] = []
    for _ in range(10):
        ledger.record([usage() for _ in range(100)])
    by_batch = [after - before for before, after in pairwise(rows_read)]
    assert len(by_batch) == 9
    assert max(by_batch) < 100 * 6, by_batch


@pytest.mark.long
def test_a_proof_in_a_tree_of_a_million_leaves_takes_less_than_ten_milliseconds(engine: Engine) -> None:
    stands, draw = Frontier(), random.Random(1)
    with writing(engine, 0) as connection:
        for _ in range(1_000):
            grown, nodes = stands.extend(draw.randbytes(32) for _ in range(1_000))
            kept = {
                "shard": 0, "tree_size": grown.size, "root": grown.root(), "frontier": grown.to_bytes(),
                "first_node": nodes_before(stands.size), "nodes": b"".join(nodes), "recorded_at": datetime.now(UTC),
            }  # fmt: skip
            connection.execute(insert(checkpoint), kept)
            stands = grown
    took_s = []
    with reading(engine) as connection:
        for _ in range(101):
            size = draw.randrange(900_000, 1_000_001)
            index = draw.randrange(size)
            started_s = time.perf_counter()
            tree.proved(connection, 0, partial(inclusion_proof, index=index, size=size))
            took_s.append(time.perf_counter() - started_s)
    assert statistics.median(took_s) < 0.010
