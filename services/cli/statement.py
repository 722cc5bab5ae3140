"""`opentoken statement …`: a workspace's month, as its finance person reads it."""

import json
from typing import Annotated, Any

import typer

from services.billing.statement import Month, Statements
from services.cli.output import UNCHECKED, Failed, Json, show
from services.cli.proofs import Database, open_ledger
from shared.errors import ApiError

COLUMNS = ("what", "key_id", "requests", "amount_usd", "balance_usd")


def statement(
    workspace_id: Annotated[str, typer.Argument(help="The workspace's id.")],
    month: Annotated[str, typer.Argument(help="Such as 2026-01, in UTC.")],
    database: Database = None,
    *,
    as_json: Json = False,
) -> None:
    """Show what a workspace opened the month with, what moved, and what it closed with."""
    try:
        with open_ledger(database) as engine:
            made = Statements(engine).of(workspace_id, Month.of(month))
    except ApiError as error:
        raise Failed(error.message, UNCHECKED) from None
    except ValueError as error:
        raise Failed(f"the books cannot be read: {error}; run `opentoken verify`", UNCHECKED) from None
    if as_json:
        typer.echo(json.dumps(made))
        return
    typer.echo(_heading(made))
    show(_lines(made), COLUMNS, as_json=False)
    typer.echo(f"\n{_proof(made)}")


def _heading(made: dict[str, Any]) -> str:
    heading = f"Statement of workspace {made['workspace_id']} for {made['month']}, in UTC and USD"
    return heading + ("\n" if made["complete"] else f"\nThis month is not over: as of {made['as_of']}\n")


def _proof(made: dict[str, Any]) -> str:
    if made["checkpoint"] is None:
        return "No checkpoint is signed yet."
    covers = made["checkpoint_covers_closing"] or made["closing_leaf_index"] is None
    return f"{made['checkpoint']}{'' if covers else 'It does not cover the closing entry yet: ask again in 10 s.'}"


def _lines(made: dict[str, Any]) -> list[dict[str, Any]]:
    movements = [entry | {"what": f"{entry['contra']} {entry['reference']}"} for entry in made["movements"]]
    return [
        {"what": "opening balance", "balance_usd": made["opening_balance_usd"]},
        *(line | {"what": line["model"]} for line in made["usage"]),
        *({name: entry[name] for name in ("what", "amount_usd")} for entry in movements),
        {"what": "closing balance", "balance_usd": made["closing_balance_usd"]},
    ]
