"""`opentoken admin log | quarantine … | conflict …`: what administrators called, and what was not booked."""

from typing import Annotated, Any

import typer

from services.cli.billing import Billing, given
from services.cli.output import Json, show, show_one

CALL = ("recorded_at", "actor", "method", "path", "body")
QUARANTINED = ("digest", "recorded_at", "body_bytes", "reason")
CONFLICTING = ("digest", "recorded_at", "request_id")

Start = Annotated[str | None, typer.Option("--from", help="Recorded at this time, or later: 2026-01-31T00:00:00Z.")]
End = Annotated[str | None, typer.Option("--to", help="Recorded before this time.")]
Digest = Annotated[str, typer.Argument(help="As the list gives it.")]

quarantine = typer.Typer(no_args_is_help=True, help="Quarantine: what came and could not be booked at all.")
conflict = typer.Typer(no_args_is_help=True, help="Conflicts: second, different records of a request.")


def log(
    workspace: Annotated[str | None, typer.Option(help="Only what concerned this workspace.")] = None,
    start: Start = None,
    end: End = None,
    *,
    as_json: Json = False,
) -> None:
    """Show what administrators called, the oldest first."""
    calls = Billing.found().list("admin", "log", **given(workspace_id=workspace), **_period(start, end))
    show(calls, CALL, as_json=as_json)


@quarantine.command("list")
def list_quarantine(start: Start = None, end: End = None, *, as_json: Json = False) -> None:
    """List what is in quarantine, the oldest first."""
    show(Billing.found().list("admin", "quarantine", **_period(start, end)), QUARANTINED, as_json=as_json)


@quarantine.command("show")
def show_quarantined(digest: Digest, *, as_json: Json = False) -> None:
    """Show one of them whole."""
    found = Billing.found().call("GET", "admin", "quarantine", digest)
    show_one(found, (*QUARANTINED, "body"), as_json=as_json)


@conflict.command("list")
def list_conflicts(start: Start = None, end: End = None, *, as_json: Json = False) -> None:
    """List all conflicts, the oldest first."""
    show(Billing.found().list("admin", "conflicts", **_period(start, end)), CONFLICTING, as_json=as_json)


@conflict.command("show")
def show_conflict(digest: Digest, *, as_json: Json = False) -> None:
    """Show in what a second record differs from the first, which stands."""
    found = Billing.found().call("GET", "admin", "conflicts", digest)
    if as_json:
        show_one(found, (), as_json=True)
        return
    show_one(found, CONFLICTING, as_json=False)
    typer.echo()
    differs: dict[str, dict[str, Any]] = found["differs"]
    show([{"column": name, **values} for name, values in differs.items()], ("column", "stands", "came"), as_json=False)


def _period(start: str | None, end: str | None) -> dict[str, Any]:
    return given(**{"from": start, "to": end})
