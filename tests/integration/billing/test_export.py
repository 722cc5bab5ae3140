"""Exports, and the books built anew from them."""

import csv
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio
from sqlalchemy import Engine

from services.billing import scan
from services.billing.database import connect
from services.billing.export import Selection, jsonl, table
from services.billing.ledger import Credit, Ledger
from services.billing.merkle import Frontier, leaf_hash
from services.billing.replay import Occupied, ReplayError, Rootless, replay
from shared.money import pico_usd
from tests import servers
from tests.integration.billing.books import TEN_USD, books
from tests.integration.billing.service import ADMIN, Service, running
from tests.unit.billing.events import usage

PAGE = 3  # smaller than the books of these tests, so that pages meet


@pytest.fixture
def written(engine: Engine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Books of two workspaces: 2 credits, 5 records, 4 debits."""
    monkeypatch.setattr("services.billing.export.PAGE", PAGE)
    ledger.credit(Credit("w", TEN_USD, "payment-1", "admin", "Überweisung"))
    ledger.record([usage(), usage("a"), usage(outcome="upstream_failed")])
    ledger.record([usage("a"), usage(upstream_usage={"text": "ü"})])
    ledger.credit(Credit("a", pico_usd("5"), "payment-2", "admin"))
    return engine


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database, of the same kind or the other."""
    sqlite = request.param == "sqlite"
    engine = connect(f"sqlite:///{tmp_path}/empty.db" if sqlite else request.getfixturevalue("other_url"))
    yield engine
    engine.dispose()


@pytest.fixture
def other_url(postgres_server: servers.Server) -> Iterator[str]:
    with servers.database(postgres_server) as url:
        yield url


def exported(engine: Engine, selection: Selection = Selection()) -> list[bytes]:  # noqa: B008 - it is frozen
    return b"".join(jsonl(engine, selection)).splitlines(keepends=True)


def test_the_lines_of_an_export_are_the_leaves_and_hash_to_the_root_that_it_names(written: Engine) -> None:
    *leaves, head = exported(written)
    tree = Frontier().extend(leaf_hash(line.removesuffix(b"\n")) for line in leaves)[0]
    assert len(leaves) == 11
    assert orjson.loads(head) == {"k": "tree/1", "root": tree.root().hex(), "shard": "0", "tree_size": "11"}


def test_an_export_replayed_into_an_empty_database_gives_the_same_books_and_the_same_root(
    written: Engine, empty: Engine
) -> None:
    lines = exported(written)
    roots = replay(lines, empty)
    assert roots == {0: orjson.loads(lines[-1])["root"]}
    ours, theirs = books(written), books(empty)
    assert ours == theirs
    assert exported(empty) == lines


def test_an_export_narrowed_to_a_workspace_or_a_time_holds_the_same_lines_and_no_root(written: Engine) -> None:
    lines, times = exported(written)[:-1], sorted({row["recorded_at"] for row in books(written)["ledger_entry"]})
    of_a = exported(written, Selection("a"))
    assert of_a == [line for line in lines if b'"workspace_id":"a"' in line]
    first = exported(written, Selection(end=times[1]))
    rest = exported(written, Selection(start=times[1]))
    assert first + rest == lines
    assert len(first) == 1


def test_a_table_holds_every_row_of_its_kind_with_amounts_digit_by_digit(written: Engine) -> None:
    found = {
        kind: list(csv.DictReader(io.StringIO(b"".join(table(written, kind, Selection())).decode())))
        for kind in scan.TABLES
    }
    entries = {row["entry_id"]: row for row in found["entry/1"]}
    for entry in books(written)["ledger_entry"]:
        assert entries[entry["entry_id"]]["amount_pico"] == str(entry["amount_pico"])
        assert entries[entry["entry_id"]]["leaf_index"] == str(entry["leaf_index"])
    assert len(entries) == 6
    assert [row["leaf_index"] for row in found["usage/1"]] == ["1", "3", "5", "6", "8"]
    assert entries[next(iter(entries))]["reason"] == "Überweisung"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: lines[:4] + lines[5:], "line 7: the database refuses it"),
        (
            lambda lines: [*lines[:2], lines[2].replace(b"-1444000000", b"-1444000001"), *lines[3:]],
            "line 3: the database",
        ),
        (lambda lines: lines[:3] + lines[2:], "line 4: the database refuses it"),
        (lambda lines: [lines[0].replace(b'"w"', b"null"), *lines[1:]], "line 1: workspace_id is null"),
        (lambda lines: [*lines[:-2], lines[-1]], "but its lines make 10"),
        (lambda lines: [lines[0].replace(b"admin", b"nimda"), *lines[1:]], "but its lines make 11"),
        (lambda lines: [lines[0].replace(b":", b": ", 1), *lines[1:]], "line 1: not a canonical leaf"),
        (lambda lines: [*lines[:4], b"{\n"], "line 5: not JSON"),
        (lambda lines: [b'{"k":"tree/1"}\n'], "line 1: 'tree_size'"),
        (lambda lines: [b'{"k":"tree/1","tree_size":null,"shard":"0","root":""}\n'], "line 1: int"),
    ],
)
def test_a_file_that_was_cut_or_changed_is_refused_when_it_is_replayed(
    written: Engine, empty: Engine, damage: object, said: str
) -> None:
    with pytest.raises(ReplayError, match=said):
        replay(damage(exported(written)), empty)  # type: ignore[operator]


def test_books_are_never_replayed_over_others(written: Engine) -> None:
    before = books(written)
    with pytest.raises(Occupied, match="there are books"):
        replay(exported(written), written)
    assert books(written) == before


@pytest_asyncio.fixture
async def service(written: Engine) -> AsyncIterator[Service]:
    async with running(written.url.render_as_string(hide_password=False)) as service:
        yield service


async def test_exports_are_downloaded_whole_over_the_api_and_filters_are_checked(
    service: Service, written: Engine
) -> None:
    headers = {"Authorization": f"Bearer {ADMIN}"}
    for path, expected in (
        ("export.jsonl", b"".join(exported(written))),
        ("export.jsonl?workspace_id=a", b"".join(exported(written, Selection("a")))),
        ("export.csv?kind=usage", b"".join(table(written, "usage/1", Selection()))),
        ("export.csv?kind=entries&from=2100-01-01T00:00:00Z", next(table(written, "entry/1", Selection()))),
    ):
        async with service.client.get(f"/v1/{path}", headers=headers) as answer:
            assert (answer.status, await answer.read()) == (200, expected)
    for path in ("export.jsonl?workspace_id=nosuch", "export.csv?kind=usage&workspace_id=nosuch"):
        assert (await service.get(f"/v1/{path}", 404))["error"]["message"] == 'workspace "nosuch" not found'
    for path in ("export.csv", "export.csv?kind=keys", "export.jsonl?from=yesterday", "export.jsonl?colour=red"):
        assert (await service.get(f"/v1/{path}", 400))["error"]["param"]


def test_an_export_that_does_not_name_its_root_proves_nothing_and_is_refused(written: Engine, tmp_path: Path) -> None:
    for number, lines in enumerate(([], exported(written)[:-1])):
        engine = connect(f"sqlite:///{tmp_path}/{number}.db")
        with pytest.raises(Rootless, match="empty or has no end line"):
            replay(lines, engine)
        engine.dispose()


def test_an_empty_ledger_exports_to_nothing(engine: Engine) -> None:
    assert exported(engine) == []
