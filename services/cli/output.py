"""What the commands print: a table for people, JSON for programs; and how they fail."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

FOUND, UNCHECKED = 1, 2  # exit codes of what checks something: it is not as it must be; it could not be checked

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


def show_one(row: Row, columns: Sequence[str], *, as_json: bool) -> None:
    """Print one row: as a JSON line, or one of its `columns` a line."""
    if as_json:
        typer.echo(json.dumps(row))
        return
    width = max(map(len, columns))
    for name in columns:
        typer.echo(f"{name.ljust(width)}  {_cell(row.get(name))}")


@contextlib.contextmanager
def progress_bar(name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal; what it gives is told how much more is done.

    Without a total it only shows that it goes on, and for how long.
    """
    columns = Progress.get_default_columns() if total is not None else (TextColumn("{task.description}"), BarColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.advance(task, done)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
