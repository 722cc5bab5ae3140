"""`opentoken admin key …` and `opentoken admin limit …`: what clients call the API with, and how much they may."""

from typing import Annotated, Any

import typer

from services.cli.billing import Billing, given
from services.cli.output import Json, show, show_one
from services.cli.workspaces import WorkspaceId

LIMITS = ("spend_limit_usd", "limit_reset", "requests_per_minute", "tokens_per_minute")
KEY = ("key_id", "workspace_id", "label", "expires_at", "revoked_at", *LIMITS, "created_at")
LISTED = ("key_id", "label", "expires_at", "revoked_at", *LIMITS)
NEVER = "never"  # as an expiry, or as the time after which a limit begins anew

KeyId = Annotated[str, typer.Argument(help="The key's public id.")]
Label = Annotated[str, typer.Argument(help="What the key is for.")]
ExpiresAt = Annotated[str | None, typer.Option(help="Such as 2027-01-31T00:00:00Z.")]
SpendLimit = Annotated[str | None, typer.Option(help="The most it may spend, such as 12.50.")]
LimitReset = Annotated[str | None, typer.Option(help="Of the spend limit: daily, weekly, monthly (UTC) or never.")]
Requests = Annotated[int | None, typer.Option(help="The most requests in a minute.")]
Tokens = Annotated[int | None, typer.Option(help="The most tokens in a minute.")]

app = typer.Typer(no_args_is_help=True, help="Keys: what clients call the API with.")
limits = typer.Typer(no_args_is_help=True, help="Limits: what a key may spend, and how fast it may ask.")


@app.command("create")
def create_key(
    workspace_id: WorkspaceId,
    label: Label,
    expires_at: ExpiresAt = None,
    spend_limit_usd: SpendLimit = None,
    limit_reset: LimitReset = None,
    *,
    as_json: Json = False,
) -> None:
    """Make a key. Its text is shown this once, and kept nowhere. For limits by the minute see: limit set."""
    body = given(label=label, expires_at=expires_at, spend_limit_usd=spend_limit_usd)
    body |= _cleared("limit_reset", limit_reset)
    made = Billing.found().call("POST", "admin", "workspaces", workspace_id, "keys", body=body)
    show_one(made, ("secret", *KEY), as_json=as_json)


@app.command("list")
def list_keys(workspace_id: WorkspaceId, *, as_json: Json = False) -> None:
    """List a workspace's keys; never their texts."""
    show(Billing.found().list("admin", "workspaces", workspace_id, "keys"), LISTED, as_json=as_json)


@app.command("show")
def show_key(key_id: KeyId, *, as_json: Json = False) -> None:
    """Show a key; never its text."""
    show_one(Billing.found().call("GET", "admin", "keys", key_id), KEY, as_json=as_json)


@app.command("set")
def set_key(
    key_id: KeyId,
    label: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="Such as 2027-01-31T00:00:00Z, or never.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Change a key's label or expiry; nothing else changes. See also: limit."""
    _change(key_id, given(label=label) | _cleared("expires_at", expires_at), as_json=as_json)


@app.command("revoke")
def revoke_key(key_id: KeyId, *, as_json: Json = False) -> None:
    """Revoke a key for ever."""
    show_one(Billing.found().call("DELETE", "admin", "keys", key_id), KEY, as_json=as_json)


@limits.command("set")
def set_limits(
    key_id: KeyId,
    spend_limit_usd: SpendLimit = None,
    limit_reset: LimitReset = None,
    requests_per_minute: Requests = None,
    tokens_per_minute: Tokens = None,
    *,
    as_json: Json = False,
) -> None:
    """Set the limits that are given; the others stay as they are."""
    amounts = given(
        spend_limit_usd=spend_limit_usd, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute
    )
    _change(key_id, amounts | _cleared("limit_reset", limit_reset), as_json=as_json)


@limits.command("clear")
def clear_limits(
    key_id: KeyId,
    *,
    spend: Annotated[bool, typer.Option("--spend", help="What it may spend.")] = False,
    requests: Annotated[bool, typer.Option("--requests", help="Its requests a minute.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="Its tokens a minute.")] = False,
    as_json: Json = False,
) -> None:
    """Take away the limits that are named, or all of them where none is."""
    named = {
        "spend_limit_usd": spend,
        "limit_reset": spend,
        "requests_per_minute": requests,
        "tokens_per_minute": tokens,
    }
    chosen = [name for name, wanted in named.items() if wanted] or list(named)
    _change(key_id, dict.fromkeys(chosen), as_json=as_json)


def _cleared(name: str, value: str | None) -> dict[str, Any]:
    """The member where it was given; the word `never` is sent as null."""
    return {} if value is None else {name: None if value == NEVER else value}


def _change(key_id: str, body: dict[str, Any], *, as_json: bool) -> None:
    show_one(Billing.found().call("PATCH", "admin", "keys", key_id, body=body), KEY, as_json=as_json)
