"""`opentoken verify | replay | reconcile`: what proves the books, straight from the database.

These commands read the database itself, not billing's API: a proof that goes through the service would have to trust
it. A login that may only SELECT is enough. Exit codes: 0 all is well, 1 something was found, 2 it could not be checked.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine
from sqlalchemy.exc import ArgumentError, DatabaseError

from services.billing import migrations
from services.billing.database import connect, reading
from services.billing.publications import kept_inside, kept_outside, sorted_out
from services.billing.readonly import connect_to_read, sqlite_file
from services.billing.reconcile import Line
from services.billing.reconcile import reconcile as reconciled
from services.billing.replay import Occupied, ReplayError, Rootless
from services.billing.replay import replay as replayed
from services.billing.reports import Report, ReportError, read
from services.billing.scan import sizes
from services.billing.verify import verify as verified
from services.billing.verify import work
from services.cli.output import FOUND, UNCHECKED, Failed, Json, progress_bar, show
from services.cli.receipt import public_keys, show_findings
from services.cli.settings import Settings
from shared.settings import load

EXPORTED = "give --checkpoints, or OPENTOKEN_CHECKPOINT_DIR, the directory that billing exports them to, or neither"
LINE = ("class", "day", "model", "request_id", "books_usd", "provider_usd", "books_tokens", "provider_tokens")
Database = Annotated[str | None, typer.Option("--database", help="SQLAlchemy URL; else OPENTOKEN_DATABASE_URL.")]


def reconcile(
    files: Annotated[list[Path], typer.Argument(help="What the provider says it charged: all pages of its report.")],
    provider: Annotated[str | None, typer.Option(help="Whose report it is, where its models do not tell.")] = None,
    database: Database = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Show what matched, too.")] = False,
    as_json: Json = False,
) -> None:
    """Compare the books with a provider's own report of what it charged."""
    try:
        with progress_bar("read"):
            report = _report(files)
        with open_ledger(database) as engine, reading(engine) as connection, progress_bar("reconcile"):
            lines = list(reconciled(connection, report, provider))
    except ReportError as error:
        raise Failed(f"{', '.join(map(str, files))}: {error}", UNCHECKED) from None
    shown = [line for line in lines if every or line.found != "matched"]
    if shown:
        show([line.json() if as_json else _cells(line) for line in shown], LINE, as_json=as_json)
    counts = Counter(line.found for line in lines)
    said = (f"{counts[name]} {name}" for name in ("matched", "missing", "extra", "differs"))
    typer.echo(f"{len(lines)} lines on {len(report.days)} days: {', '.join(said)}", err=True)
    if counts["matched"] != len(lines):
        raise typer.Exit(FOUND)


@contextlib.contextmanager
def open_ledger(url: str | None) -> Iterator[Engine]:
    """The ledger's database, only to be read, at the version that this program knows. Raises Failed."""
    engine = _engine(url or load(Settings).ledger_url(), connect_to_read)
    file = sqlite_file(engine.url)
    if engine.dialect.name == "sqlite" and not (file and file.is_file()):
        raise Failed(f"there is no ledger at {engine.url!r}: set OPENTOKEN_DATABASE_URL or --database", UNCHECKED)
    try:
        migrations.check(engine)
        yield engine
    except migrations.SchemaError as error:
        raise Failed(str(error), UNCHECKED) from None
    except DatabaseError as error:
        raise Failed(f"the database does not answer as it should: {error.orig}", UNCHECKED) from None
    finally:
        engine.dispose()


def _engine(url: str, connect: Callable[[str], Engine] = connect) -> Engine:
    try:
        return connect(url)
    except (ArgumentError, ImportError, ValueError):  # no URL, of another database, or with a port that is no number
        raise Failed("not a database URL: write postgresql+psycopg://... or sqlite:///file", UNCHECKED) from None


def _report(files: list[Path]) -> Report:
    try:
        return read(*(path.read_text("utf-8-sig") for path in files))
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(str(error)) from None


def _cells(line: Line) -> dict[str, object]:
    json = line.json()
    cells: dict[str, object] = {name: json.get(name) for name in ("class", "day", "model", "request_id")}
    for side in ("books", "provider"):
        total = json[side] or {}
        cells[f"{side}_usd"] = total.get("cost_usd")
        cells[f"{side}_tokens"] = total.get("tokens") and sum(total["tokens"].values())
    return cells


def verify(
    checkpoints: Annotated[Path | None, typer.Option(help="Where signed checkpoints were exported to.")] = None,
    key: Annotated[Path | None, typer.Option(help="The file of public keys that they are checked with.")] = None,
    database: Database = None,
    *,
    as_json: Json = False,
) -> None:
    """Check every invariant of the books, and the books against the checkpoints kept outside."""
    settings = load(Settings)
    file = key or settings.public_keys()
    keys = public_keys(file) if key or file.exists() else []  # books without signed checkpoints need none
    outside = list(kept_outside(checkpoints or settings.checkpoints(), keys))  # first: then the books are no older
    with open_ledger(database) as engine, reading(engine) as connection:
        leaves = sum(sizes(connection).values())
        if not outside and (named := checkpoints or settings.checkpoint_dir):
            raise Failed(f"{named} holds no checkpoint: {EXPORTED}", UNCHECKED)
        signed = [*kept_inside(connection, keys), *outside]
        if signed and not keys:
            raise Failed(f"there are signed checkpoints, but no public keys in {file}: give --key FILE", UNCHECKED)
        published, findings = sorted_out(signed)
        with progress_bar("verify", work(leaves)) as progress:
            findings += verified(connection, published, progress)
    show_findings(findings, as_json=as_json)
    kept = len(sorted_out(outside)[0])  # the newest lies there under two names
    against = f"{kept} checkpoints kept outside" if kept else "no checkpoint kept outside: see --checkpoints"
    typer.echo(f"{leaves} leaves checked against {against}: {len(findings)} findings", err=True)
    if findings:
        raise typer.Exit(FOUND)


def replay(
    file: Annotated[Path, typer.Argument(help="A whole export: GET /v1/export.jsonl.")],
    into: Annotated[str, typer.Option(help="SQLAlchemy URL of an empty database, of either kind.")],
    *,
    as_json: Json = False,
) -> None:
    """Build the books anew from an export; the roots come out the same, or it fails."""
    engine = _engine(into)
    unproven = f"whatever stands in {engine.url!r} now is not proven: delete it before you try again"
    try:
        with file.open("rb") as lines, progress_bar("replay", file.stat().st_size) as progress:
            roots = replayed(_counted(lines, progress), engine)
    except ReplayError as error:
        raise Failed(f"{file}: {error}; {unproven}", FOUND) from None
    except Rootless as error:
        raise Failed(f"{file}: {error}; {unproven}", UNCHECKED) from None
    except (Occupied, OSError, OverflowError) as error:
        raise Failed(str(error), UNCHECKED) from None
    except DatabaseError as error:
        raise Failed(f"the database refused it: {error.orig}", UNCHECKED) from None
    finally:
        engine.dispose()
    show([{"shard": shard, "root": root} for shard, root in roots.items()], ("shard", "root"), as_json=as_json)


def _counted(lines: Iterable[bytes], progress: Callable[[int], None]) -> Iterator[bytes]:
    for line in lines:
        progress(len(line))
        yield line
