"""`opentoken admin workspace …`: who owns credit and keys."""

from typing import Annotated

import typer

from services.cli.billing import Billing, given
from services.cli.output import Json, show, show_one

WORKSPACE = ("id", "name", "strict", "created_at")

WorkspaceId = Annotated[str, typer.Argument(help="The workspace's id.")]
Strict = Annotated[bool | None, typer.Option(help="Whether its balance must never pass zero.")]

app = typer.Typer(no_args_is_help=True, help="Workspaces: who owns credit and keys.")


@app.command("create")
def create_workspace(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    id: Annotated[str | None, typer.Option(help="Its id for ever; made up where none is given.")] = None,
    strict: Strict = None,
    *,
    as_json: Json = False,
) -> None:
    """Make a workspace."""
    body = given(name=name, id=id, strict=strict)
    show_one(Billing.found().call("POST", "admin", "workspaces", body=body), WORKSPACE, as_json=as_json)


@app.command("list")
def list_workspaces(*, as_json: Json = False) -> None:
    """List all workspaces."""
    show(Billing.found().list("admin", "workspaces"), WORKSPACE, as_json=as_json)


@app.command("show")
def show_workspace(workspace_id: WorkspaceId, *, as_json: Json = False) -> None:
    """Show a workspace with its balance."""
    billing = Billing.found()
    workspace = billing.call("GET", "admin", "workspaces", workspace_id)
    balance = billing.call("GET", "v1", "workspaces", workspace_id, "balance")
    both = workspace | {"balance_usd": balance["balance_usd"]}
    show_one(both, (*WORKSPACE, "balance_usd"), as_json=as_json)


@app.command("set")
def set_workspace(
    workspace_id: WorkspaceId,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    strict: Strict = None,
    *,
    as_json: Json = False,
) -> None:
    """Change what is given, and nothing else."""
    body = given(name=name, strict=strict)
    changed = Billing.found().call("PATCH", "admin", "workspaces", workspace_id, body=body)
    show_one(changed, WORKSPACE, as_json=as_json)
