"""The entry point of `opentoken`."""

import logging
import sys

import typer

from services.cli import admin, parked, proofs, receipt, statement, topology
from services.cli.output import Failed

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(admin.app, name="admin")
app.add_typer(receipt.app, name="receipt")
app.add_typer(parked.app, name="parked")
for command in (proofs.verify, proofs.replay, proofs.reconcile, statement.statement, topology.topology):
    app.command()(command)


@app.callback()
def opentoken() -> None:
    """OpenToken: an LLM gateway that keeps books."""


def main() -> None:
    """Run a command; what fails is said on standard error, with the failure's exit code."""
    logging.disable()  # the driver's warnings; what matters of them is said once, as the failure
    try:
        app()
    except Failed as error:
        sys.stderr.write(f"opentoken: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
