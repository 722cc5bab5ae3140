"""`opentoken admin credit …`: what requests are paid from, and every correction of it."""

from typing import Annotated

import typer

from services.cli.billing import Billing, given
from services.cli.output import Json, Row, show, show_one
from services.cli.workspaces import WorkspaceId

ENTRY = (
    "entry_id", "seq", "amount_usd", "balance_after_usd", "contra", "reference", "reverses", "reason", "actor",
    "recorded_at",
)  # fmt: skip
CONTRAS = ("cash", "promo", "refund", "adjustment")  # every one but that of requests, which are many

Amount = Annotated[str, typer.Argument(help="Such as 25 or 12.50.", metavar="USD")]
Reference = Annotated[
    str, typer.Option(help="The payment's or document's id: the same reference is never posted twice.")
]
Reason = Annotated[str, typer.Option(help="Kept in the ledger with the entry.")]

app = typer.Typer(no_args_is_help=True, help="Credit: what requests are paid from.")


@app.command("add")
def add_credit(
    workspace_id: WorkspaceId,
    amount_usd: Amount,
    reference: Reference,
    reason: Annotated[str | None, typer.Option(help="Kept in the ledger with the entry.")] = None,
    contra: Annotated[str, typer.Option(help="Where it comes from: cash or promo.")] = "cash",
    *,
    as_json: Json = False,
) -> None:
    """Post a credit."""
    body = given(amount_usd=amount_usd, reference=reference, reason=reason, contra=contra)
    _post(workspace_id, "credits", body, as_json=as_json)


@app.command("refund")
def refund(
    workspace_id: WorkspaceId,
    entry_id: Annotated[str, typer.Argument(help="The entry that it takes back: a request's debit, or a payment.")],
    reference: Reference,
    reason: Reason,
    amount_usd: Annotated[str | None, typer.Option(help="Else all that is left of the entry.", metavar="USD")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Take an entry back, in whole or in part, but never more than it was."""
    body = given(reverses=entry_id, amount_usd=amount_usd, reference=reference, reason=reason)
    _post(workspace_id, "refunds", body, as_json=as_json)


# Unknown options are let through as arguments, because "-0.50" looks like one.
@app.command("adjust", context_settings={"ignore_unknown_options": True})
def adjust(
    workspace_id: WorkspaceId,
    amount_usd: Annotated[str, typer.Argument(help="Such as 0.50, or -0.50 to take it away.", metavar="USD")],
    reference: Reference,
    reason: Reason,
    *,
    as_json: Json = False,
) -> None:
    """Correct a balance by an entry of its own, up or down."""
    body = given(amount_usd=amount_usd, reference=reference, reason=reason)
    _post(workspace_id, "adjustments", body, as_json=as_json)


@app.command("list")
def list_credits(workspace_id: WorkspaceId, *, as_json: Json = False) -> None:
    """List what was credited, refunded and adjusted; requests are left out."""
    billing, found = Billing.found(), list[Row]()
    for contra in CONTRAS:
        found += billing.list("v1", "workspaces", workspace_id, "entries", contra=contra)
    show(sorted(found, key=lambda entry: int(entry["seq"])), ENTRY, as_json=as_json)


def _post(workspace_id: str, kind: str, body: dict[str, str], *, as_json: bool) -> None:
    show_one(Billing.found().call("POST", "admin", "workspaces", workspace_id, kind, body=body), ENTRY, as_json=as_json)
