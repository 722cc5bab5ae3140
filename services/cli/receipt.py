"""`opentoken receipt verify …`: a receipt checked where nothing of ours runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from services.billing.checkpoint import PublicKey
from services.billing.invariants import Finding
from services.billing.keys import read_public_keys
from services.billing.receipts import UNPROVEN, receipt_findings, unproven
from services.cli.output import FOUND, UNCHECKED, Failed, Json, show

FINDING = ("check", "row", "expected", "found")

app = typer.Typer(no_args_is_help=True, help="Receipts: what one request used and cost.")


@app.callback()
def receipt() -> None:
    """Receipts: what one request used and cost."""


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A receipt: GET /v1/generations/{id}, as it came.")],
    key: Annotated[Path, typer.Option(help="The file of the log's public keys.")],
    *,
    as_json: Json = False,
) -> None:
    """Check, offline, that a receipt is in the books and says what they say."""
    keys = public_keys(key)
    try:
        shown = json.loads(file.read_text("utf-8-sig"))
        if shown.keys() == {"error"}:
            raise Failed(f"{file} is an error answer, no receipt: {shown['error']['message']}", UNCHECKED)
        findings = list(receipt_findings(shown, keys))
    except OSError as error:
        raise Failed(str(error), UNCHECKED) from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise Failed(f"{file} is no receipt: {type(error).__name__}: {error}", UNCHECKED) from None
    if findings and all(map(unproven, findings)):
        raise Failed(f"{file} cannot be checked yet, for want of {UNPROVEN}", UNCHECKED)
    show_findings(findings, as_json=as_json)
    typer.echo(f"{file}: {len(findings)} findings", err=True)
    if findings:
        raise typer.Exit(FOUND)


def public_keys(file: Path) -> list[PublicKey]:
    """The keys in a file, one at least. Raises Failed."""
    try:
        keys = read_public_keys(file)
    except (OSError, ValueError) as error:
        raise Failed(f"{file}: {error}", UNCHECKED) from None
    if not keys:
        raise Failed(f"{file} holds no public key: there is nothing to check signatures with", UNCHECKED)
    return keys


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print what was found, if anything."""
    if findings:
        show([finding.json() for finding in findings], FINDING, as_json=as_json)
