"""Which bus a URL means."""

from shared.bus import Bus
from shared.bus.local import LocalBus
from shared.bus.rabbit import RabbitBus

LOCAL = "local:"


def connect(url: str, *, shards: int, name: str) -> Bus:
    """The bus of `local:`, `amqp://…` or `amqps://…`; needs a running loop. `name` shows up at the broker."""
    return LocalBus() if url == LOCAL else RabbitBus(url, shards=shards, name=name)
