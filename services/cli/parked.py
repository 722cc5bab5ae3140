"""`opentoken parked …`: messages that billing was given too often without committing them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Annotated

import typer
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from services.billing.parking import NotSent, Parked, Parking, parking
from services.cli.output import Failed, Json, show
from services.cli.settings import Settings
from shared.settings import load

COLUMNS = ("id", "queue", "reason", "parked_at", "events", "bytes")
Id = Annotated[str, typer.Argument(help="The message's id, as `list` shows it.")]

app = typer.Typer(no_args_is_help=True, help="Messages that could not be booked (needs OPENTOKEN_BROKER_URL).")


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List what is parked, oldest first; it stays where it is."""

    async def run() -> list[Parked]:
        async with _parking() as lot:
            return lot.messages

    show([parked.row() for parked in asyncio.run(run())], COLUMNS, as_json=as_json)


@app.command("show")
def show_one(id_: Id) -> None:
    """Show a message and why it is here, as JSON; it stays where it is."""

    async def run() -> Parked:
        async with _parking() as lot:
            return _named(lot, id_)[0]

    typer.echo(json.dumps(asyncio.run(run()).content(), indent=2))


@app.command()
def requeue(
    id_: Annotated[str | None, typer.Argument(help="The message's id; or --all.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Everything that is parked.")] = False,
    as_json: Json = False,
) -> None:
    """Send messages to their shards again. Sent twice they do no harm: billing knows what it has booked."""
    if (id_ is None) != every:
        raise Failed("say which message, or --all")

    async def run() -> list[Parked]:
        async with _parking() as lot:
            chosen = lot.messages if id_ is None else _named(lot, id_)
            for parked in chosen:
                await lot.requeue(parked)
            return chosen

    show([parked.row() for parked in asyncio.run(run())], COLUMNS, as_json=as_json)


def _named(lot: Parking, id_: str) -> list[Parked]:
    """The messages of an id: more than one where the same content is parked more than once."""
    if not (found := [parked for parked in lot.messages if parked.id == id_]):
        raise Failed(f'no message "{id_}" is parked: see `opentoken parked list`')
    return found


@contextlib.asynccontextmanager
async def _parking() -> AsyncIterator[Parking]:
    url = load(Settings).broker_url
    if url is None:
        raise Failed("no broker: set OPENTOKEN_BROKER_URL")
    try:
        async with parking(url.get_secret_value()) as lot:
            yield lot
    except NotSent as error:
        raise Failed(str(error)) from None
    except (TimeoutError, *CONNECTION_EXCEPTIONS) as error:
        raise Failed(f"the broker does not answer as it should: {error or type(error).__name__}") from None
