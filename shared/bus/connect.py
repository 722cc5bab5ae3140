"""Which bus a URL means, and whether it can serve at all."""

import sys

from shared.bus import AccountBus
from shared.bus.local import LocalBus
from shared.bus.rabbit import RabbitBus, check
from shared.bus.topology import TopologyError

LOCAL = "local:"


def connect(url: str, *, shards: int, name: str) -> AccountBus:
    """The bus of `local:`, `amqp://…` or `amqps://…`; needs a running loop. `name` shows up at the broker."""
    return LocalBus() if url == LOCAL else RabbitBus(url, shards=shards, name=name)


async def require_topology(url: str, *, shards: int, name: str) -> None:
    """Exit with 1, and say why, where the broker is there but cannot serve this version.

    One that is away is no reason: usage waits in the spool, and the bus goes on trying.
    """
    if url == LOCAL:
        return
    try:
        await check(url, shards=shards, name=name)
    except TopologyError as error:
        sys.exit(f"{name} cannot start: {error}")
