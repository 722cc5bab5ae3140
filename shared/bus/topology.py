"""What exists at RabbitMQ: exchanges, queues, bindings, and which right each service needs.

The services declare it all at start: whoever comes first makes it, so nothing is ever published into the void. Where
they have no right to, an operator imports `definitions`, made of the same data, and the services look that it is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed
from pamqp.common import FieldValue

from shared.events import PARKED_QUEUE, USAGE_EXCHANGE, queue_of, routing_key

ACCOUNTS_EXCHANGE: Final = "accounts"
EXCHANGES: Final[Mapping[str, ExchangeType]] = {
    USAGE_EXCHANGE: ExchangeType.TOPIC,
    ACCOUNTS_EXCHANGE: ExchangeType.FANOUT,
}

DELIVERY_LIMIT = 20  # lost channels count too: a low limit would park innocent messages after a few crashes
NO_DELIVERY_LIMIT = 2**31 - 1  # RabbitMQ 4 drops what was looked at 20 times; it alone knows -1, which 3 refuses

SHARD_ARGUMENTS: Final[Mapping[str, FieldValue]] = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": PARKED_QUEUE,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",  # at-least-once dead-lettering demands it
}
PARKED_ARGUMENTS: Final[Mapping[str, FieldValue]] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": NO_DELIVERY_LIMIT,
}

NOTHING, OWN_QUEUE = "^$", r"^accounts\.edge\..*$"


@dataclass(frozen=True, slots=True)
class Rights:
    """Patterns of what a user may make, write to and read from; a binding writes to its queue, reads its exchange."""

    configure: str = NOTHING
    write: str = NOTHING
    read: str = NOTHING


RIGHTS: Final[Mapping[str, Rights]] = {
    "opentoken-edge": Rights(OWN_QUEUE, r"^(usage|accounts\.edge\..*)$", r"^(accounts|accounts\.edge\..*)$"),
    "opentoken-worker": Rights(write="^usage$"),
    "opentoken-billing": Rights(write="^accounts$", read=r"^billing\.usage\..*$"),
    "opentoken-operator": Rights(write="^usage$", read=r"^billing\.parked$"),  # `opentoken parked`
}
"""The least that each needs where the topology was imported. To look whether a queue is there needs no right."""


class TopologyError(Exception):
    """The broker does not have what this version needs, and waiting will not mend it; says what to do."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue, bound to the usage exchange where it has a routing key."""

    name: str
    key: str | None = None
    arguments: Mapping[str, FieldValue] = field(default_factory=dict)


def queues(shards: int) -> list[Queue]:
    """The queues of that many shards; that of parked messages first, since the others dead-letter to it."""
    usage = [Queue(queue_of(shard), routing_key(shard), SHARD_ARGUMENTS) for shard in range(shards)]
    return [Queue(PARKED_QUEUE, None, PARKED_ARGUMENTS), *usage]


async def declare(connection: AbstractConnection, shards: int) -> None:
    """Make what is missing; without the right to, look that nothing is. Raises TopologyError."""
    try:
        await _make(await connection.channel(), shards)
    except ChannelPreconditionFailed as error:
        raise TopologyError(_differs(error, shards)) from error
    except ChannelAccessRefused:
        try:
            await _look(await connection.channel(), shards)
        except ChannelNotFoundEntity as error:
            raise TopologyError(
                f"the broker says {error}, and does not let this user make it: import what"
                f" `opentoken topology --shards {shards}` prints, or give the user the right to configure"
            ) from error


def definitions(shards: int) -> dict[str, Any]:
    """The same as a definitions file of RabbitMQ, in the virtual host "/", with a user for each service.

    The users have no password, so nobody can log in as one before `rabbitmqctl change_password`.
    """
    here, lasting = {"vhost": "/"}, {"durable": True, "auto_delete": False}
    return {
        "vhosts": [{"name": "/"}],
        "users": [
            {"name": name, "password_hash": "", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []}
            for name in RIGHTS
        ],
        "permissions": [
            {"user": name, **here, "configure": may.configure, "write": may.write, "read": may.read}
            for name, may in RIGHTS.items()
        ],
        "exchanges": [
            {"name": name, **here, "type": kind.value, **lasting, "internal": False, "arguments": {}}
            for name, kind in EXCHANGES.items()
        ],
        "queues": [
            {"name": queue.name, **here, **lasting, "arguments": dict(queue.arguments)} for queue in queues(shards)
        ],
        "bindings": [
            {
                "source": USAGE_EXCHANGE, **here, "destination": queue.name, "destination_type": "queue",
                "routing_key": queue.key, "arguments": {},
            }
            for queue in queues(shards) if queue.key
        ],
    }  # fmt: skip


async def _make(channel: AbstractChannel, shards: int) -> None:
    for name, kind in EXCHANGES.items():
        await channel.declare_exchange(name, kind, durable=True)
    for queue in queues(shards):
        made = await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments))
        if queue.key:
            await made.bind(USAGE_EXCHANGE, queue.key)
    await channel.close()


async def _look(channel: AbstractChannel, shards: int) -> None:
    for name in EXCHANGES:
        await channel.declare_exchange(name, passive=True)
    for queue in queues(shards):
        await channel.declare_queue(queue.name, passive=True)
    await channel.close()


def _differs(error: ChannelPreconditionFailed, shards: int) -> str:
    """The broker's words, which name what it has; and what this version declares."""
    ours = {name: f"a durable {kind.value} exchange" for name, kind in EXCHANGES.items()} | {
        queue.name: f"a durable queue with {dict(queue.arguments)}" for queue in queues(shards)
    }
    said = str(error)
    named = next((f"'{name}' to be {what}" for name, what in ours.items() if f"'{name}'" in said), "another one")
    return (
        f"the broker says {said}; this version needs {named}. Let billing take what waits there with the version that"
        " made it, delete it, and start again; or take away the policy or the version that is not meant"
    )
