"""The consumer: takes a shard's messages from the bus and returns from each call when they are committed.

A batch is decoded and checked on another thread, while the one before it is written. A failure leaves the messages
with the bus, which brings them again, so nothing here retries.
"""

import asyncio
from collections.abc import Sequence

import structlog
from prometheus_client import Counter, Histogram

from services.billing.database import Threads
from services.billing.ledger import Ledger
from services.billing.records import checked
from shared.bus import Bus, Handler, Message
from shared.failpoints import passing

log = structlog.get_logger()

RESTART_S = 1.0  # after the bus gave up consuming, which it does only for reasons that do not pass at once

RESULTS = ("recorded", "duplicate", "conflict", "quarantined")
EVENTS = Counter("opentoken_ledger_events_total", "Usage events taken, by what became of them.", ["result"])
BATCH = Histogram("opentoken_ledger_batch_seconds", "Time to commit one batch of messages.")


def handler(ledger: Ledger, threads: Threads) -> Handler:
    """The handler for `Bus.consume`: returns after the commit, raises where nothing is committed."""
    for result in RESULTS:  # a counter that is not there before its first event has no increase to alert on
        EVENTS.labels(result)

    async def post(messages: Sequence[Message]) -> None:
        passing("billing.received")
        with BATCH.time():
            results = await threads.write(ledger.book, await threads.prompt(checked, messages))
        for result, count in results.items():
            EVENTS.labels(result).inc(count)
        passing("billing.after_commit")

    return post


async def consume(bus: Bus, shard: int, handler: Handler) -> None:
    """Consume until cancelled, whatever goes wrong."""
    while True:
        try:
            await bus.consume(shard, handler)
        except Exception:
            log.exception("consumer_stopped", shard=shard, retry_s=RESTART_S)
        await asyncio.sleep(RESTART_S)
