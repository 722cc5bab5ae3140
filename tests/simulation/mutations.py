"""Broken rules: each takes one promise out of the real code, and the simulation must notice."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from services.edge import handlers
from services.edge.leases import Purse
from services.edge.relay import Lost, relay
from services.workers.exchange import Exchange
from services.workers.settle import usage_recorded
from shared.bus import rabbit
from shared.errors import BillingUnavailable
from shared.events import Encoded
from shared.outbox import Outbox
from shared.spool import Spool
from tests.simulation import faults

Patch = pytest.MonkeyPatch


def acknowledge_before_commit(patch: Patch) -> None:
    """The consumer acknowledges what it has received, then books it."""
    (module,) = (
        one for name, one in sys.modules.items() if name.startswith("shared.bus.") and hasattr(one, "_until_handled")
    )
    handled = module._until_handled

    async def acknowledged(handler: Any, messages: Sequence[Any]) -> None:
        await messages[-1].ack(multiple=True)
        await handled(handler, messages)

    patch.setattr(module, "_until_handled", acknowledged)


def remove_from_the_spool_before_the_confirmation(patch: Patch) -> None:
    async def republish(self: Outbox, spool: Spool) -> int:
        waiting = await spool.oldest() if self._bus.connected else []
        if waiting:
            await spool.remove([place for place, _ in waiting])
        await asyncio.gather(*(self._bus.publish(event) for _, event in waiting))
        return len(waiting)

    patch.setattr(Outbox, "_republish", republish)


def end_the_answer_before_the_usage_is_durable(patch: Patch) -> None:
    async def settle(self: Exchange, *about: Any) -> int:
        event = usage_recorded(self.asked, self.trail, *about)
        task = asyncio.create_task(self._outbox.put(Encoded.of(event, "worker/anthropic")))
        task.add_done_callback(lambda task: task.exception())
        return event.cost

    patch.setattr(Exchange, "settle", settle)


def ask_the_next_worker_after_the_request_was_sent(patch: Patch) -> None:
    async def again(*about: Any) -> Any:
        try:
            return await relay(*about)
        except Lost as lost:
            if lost.stream is not None:
                raise
            return await relay(*about)

    patch.setattr(handlers, "relay", again)


def serve_though_the_spool_is_full(patch: Patch) -> None:
    put = Outbox.put

    async def careless(self: Outbox, event: Encoded) -> None:
        try:
            await put(self, event)
        except BillingUnavailable:
            return

    patch.setattr(Outbox, "put", careless)
    patch.setattr(Outbox, "check", lambda self: None)


def return_from_the_spool_before_the_disk_has_it(patch: Patch) -> None:
    append = Spool.append

    async def careless(self: Spool, event: Encoded) -> None:
        task = asyncio.create_task(append(self, event))
        task.add_done_callback(lambda task: task.exception())

    patch.setattr(Spool, "append", careless)


def take_any_answer_of_the_broker_for_a_confirmation(patch: Patch) -> None:
    patch.setattr(rabbit, "Basic", SimpleNamespace(Ack=object))


def take_a_lost_connection_for_an_end_of_ones_own(patch: Patch) -> None:
    """A publish that the library cancels with its connection ends without an answer to those who wait for it."""
    patch.setattr(rabbit, "_closing_told", contextlib.nullcontext)


def bill_what_broke_off(patch: Patch) -> None:
    """An answer that the provider broke off is settled as one that it completed."""
    settle = Exchange.settle

    async def generous(self: Exchange, outcome: Any, *about: Any) -> int:
        return await settle(self, "completed" if outcome == "upstream_interrupted" else outcome, *about)

    patch.setattr(Exchange, "settle", generous)


def admit_what_nothing_covers(patch: Patch) -> None:
    """A request takes its hold whatever is left of the lease."""
    patch.setattr(Purse, "take", Purse._hold)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A broken rule, and the faults under which it shows soon."""

    breaks: Callable[[Patch], None]
    under: tuple[faults.Fault, ...]


MUTATIONS = (
    Mutation(acknowledge_before_commit, (faults.database_goes_away, faults.billing_dies)),
    Mutation(remove_from_the_spool_before_the_confirmation, (faults.broker_refuses, faults.broker_dies)),
    Mutation(end_the_answer_before_the_usage_is_durable, (faults.broker_dies, faults.disk_fills)),
    Mutation(ask_the_next_worker_after_the_request_was_sent, (faults.connection_breaks,)),
    Mutation(serve_though_the_spool_is_full, (faults.broker_dies, faults.disk_fills)),
    Mutation(return_from_the_spool_before_the_disk_has_it, (faults.broker_dies, faults.disk_fills)),
    Mutation(take_any_answer_of_the_broker_for_a_confirmation, (faults.broker_refuses,)),
    Mutation(take_a_lost_connection_for_an_end_of_ones_own, (faults.broker_is_cut_off,)),
    Mutation(bill_what_broke_off, (faults.clock_jumps,)),
    Mutation(admit_what_nothing_covers, (faults.clock_jumps,)),
)
