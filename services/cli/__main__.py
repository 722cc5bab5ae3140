"""The entry point of `opentoken`."""

import sys

import typer

from services.cli import admin
from services.cli.billing import Failed

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(admin.app, name="admin")


@app.callback()
def opentoken() -> None:
    """OpenToken: an LLM gateway that keeps books."""


def main() -> None:
    """Run a command; what fails is said on standard error, with exit code 1."""
    try:
        app()
    except Failed as error:
        sys.exit(f"opentoken: {error}")


if __name__ == "__main__":
    main()
