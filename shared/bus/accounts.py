"""How every edge learns at once what changed, over RabbitMQ.

Billing publishes to the fan-out exchange `accounts`, which copies to one queue for each edge; the queue lives as long
as that edge's connection. Nothing is kept for an edge that is away: whoever comes back forgets all it remembered.
"""

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage

from shared.bus import Watcher
from shared.bus.topology import ACCOUNTS_EXCHANGE
from shared.changes import CONTENT_TYPE, AccountChanged
from shared.ids import new_id

log = structlog.get_logger()

OWN_QUEUE = "accounts.edge.{id}"


async def announce(exchange: AbstractExchange, change: AccountChanged) -> None:
    """Publish on a channel with confirms. That no edge is there to hear it is no error."""
    await exchange.publish(aio_pika.Message(change.to_json(), content_type=CONTENT_TYPE), "", mandatory=False)


async def listen(channel: AbstractChannel, watcher: Watcher) -> None:
    """Begin to tell `watcher`. Nothing is acknowledged: what is lost with the connection is asked for anew."""

    async def take(message: AbstractIncomingMessage) -> None:
        try:
            watcher.changed(AccountChanged.of_json(message.body))
        except ValueError as error:
            log.error("account_change_unreadable", reason=str(error))

    queue = await channel.declare_queue(OWN_QUEUE.format(id=new_id()), exclusive=True, auto_delete=True)
    await queue.bind(ACCOUNTS_EXCHANGE)
    await queue.consume(take, no_ack=True)
