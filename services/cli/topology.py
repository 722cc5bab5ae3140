"""`opentoken topology`: what to import at a broker whose services may not configure it."""

import json
from typing import Annotated

import typer

from shared.bus.topology import definitions


def topology(
    shards: Annotated[int, typer.Option(min=1, max=256, help="As in OPENTOKEN_LEDGER_SHARDS.")] = 1,
) -> None:
    """Print RabbitMQ's definitions file: exchanges, queues, and a user with the least rights for each service."""
    typer.echo(json.dumps(definitions(shards), indent=2))
