"""What the commands print: a table for people, JSON for programs; and how they fail."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

Row = Mapping[str, Any]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class Failed(Exception):
    """The command did not succeed; the message is for the terminal."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def show(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows: all of them as JSON lines, or their `columns` as a table."""
    if as_json:
        lines = [json.dumps(row) for row in rows]
    else:
        cells = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    for line in lines:
        typer.echo(line)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
