"""`opentoken admin …`: workspaces, keys and credits."""

from typing import Annotated

import typer

from services.cli.billing import Billing
from services.cli.output import Json, show
from services.cli.settings import Settings
from shared.settings import load

app = typer.Typer(no_args_is_help=True, help="Workspaces, keys and credits (needs the admin token).")
workspace = typer.Typer(no_args_is_help=True, help="Workspaces: who owns credit and keys.")
key = typer.Typer(no_args_is_help=True, help="Keys: what clients call the API with.")
credit = typer.Typer(no_args_is_help=True, help="Credit: what requests are paid from.")
app.add_typer(workspace, name="workspace")
app.add_typer(key, name="key")
app.add_typer(credit, name="credit")

WORKSPACE = ("id", "name", "strict", "created_at")
KEY = ("key_id", "label", "expires_at", "revoked_at", "spend_limit_usd", "limit_reset", "created_at")
ENTRY = ("entry_id", "seq", "amount_usd", "balance_after_usd", "contra", "reference")

WorkspaceId = Annotated[str, typer.Argument(help="The workspace's id.")]


@workspace.command("create")
def create_workspace(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    id: Annotated[str | None, typer.Option(help="Its id for ever; made up where none is given.")] = None,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Never let its balance pass zero.")] = False,
    as_json: Json = False,
) -> None:
    """Make a workspace."""
    body = {"name": name, "id": id, "strict": strict}
    show([_billing().call("POST", "admin", "workspaces", body=body)], WORKSPACE, as_json=as_json)


@workspace.command("list")
def list_workspaces(*, as_json: Json = False) -> None:
    """List all workspaces."""
    show(_billing().list("admin", "workspaces"), WORKSPACE, as_json=as_json)


@key.command("create")
def create_key(
    workspace_id: WorkspaceId,
    label: Annotated[str, typer.Argument(help="What the key is for.")],
    expires_at: Annotated[str | None, typer.Option(help="Such as 2027-01-31T00:00:00Z.")] = None,
    spend_limit_usd: Annotated[str | None, typer.Option(help="The most it may spend, such as 12.50.")] = None,
    limit_reset: Annotated[str | None, typer.Option(help="daily, weekly or monthly; else for its lifetime.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Make a key. Its text is shown this once, and kept nowhere."""
    body = {
        "label": label,
        "expires_at": expires_at,
        "spend_limit_usd": spend_limit_usd,
        "limit_reset": limit_reset,
    }
    show(
        [_billing().call("POST", "admin", "workspaces", workspace_id, "keys", body=body)],
        ("secret", *KEY),
        as_json=as_json,
    )


@key.command("list")
def list_keys(workspace_id: WorkspaceId, *, as_json: Json = False) -> None:
    """List a workspace's keys; never their texts."""
    show(_billing().list("admin", "workspaces", workspace_id, "keys"), KEY, as_json=as_json)


@key.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The key's public id.")],
    *,
    as_json: Json = False,
) -> None:
    """Revoke a key for ever."""
    show([_billing().call("DELETE", "admin", "keys", key_id)], KEY, as_json=as_json)


@credit.command("add")
def add_credit(
    workspace_id: WorkspaceId,
    amount_usd: Annotated[str, typer.Argument(help="Such as 25 or 12.50.")],
    reference: Annotated[str, typer.Option(help="The payment's id: the same reference is never posted twice.")],
    reason: Annotated[str | None, typer.Option(help="Kept in the ledger with the entry.")] = None,
    contra: Annotated[str, typer.Option(help="Where it comes from: cash or promo.")] = "cash",
    *,
    as_json: Json = False,
) -> None:
    """Post a credit to a workspace's ledger."""
    body = {"amount_usd": amount_usd, "reference": reference, "reason": reason, "contra": contra}
    show([_billing().call("POST", "admin", "workspaces", workspace_id, "credits", body=body)], ENTRY, as_json=as_json)


def _billing() -> Billing:
    return Billing(load(Settings))
