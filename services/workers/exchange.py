"""One request on its way through the worker: its bounds, who still listens, and its settlement, made once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

from services.workers.provider import Failed, Finish, Usage
from services.workers.settle import Asked, Trail, outcome_of, usage_recorded
from shared.errors import ApiError, UpstreamTimeout, WorkerLost
from shared.events import Encoded, Outcome
from shared.failpoints import passing
from shared.outbox import Outbox

DRAIN_S = 60.0  # how long an answer that nobody waits for is read on to its counts


class Exchange:
    """What was asked, what happened, and how it ends.

    The work runs in a task of its own, which is never cancelled. What ends it early is its scope: the deadline, or,
    once the client has left, now (`cut`) or DRAIN_S later (`drain`). So the settlement always runs to its end.
    """

    def __init__(
        self,
        asked: Asked,
        outbox: Outbox,
        on_disconnect: Literal["cut", "drain"],
        deadline_s: float,
        draining: asyncio.Event,
    ) -> None:
        self.asked, self.trail = asked, Trail()
        self.client_gone = self.client_waiting = self.broken_off = False  # waiting: it takes no more at the moment
        self._client_chose = False  # to leave: nothing of ours had ended the answer before
        self._outbox, self._on_disconnect, self._deadline_s = outbox, on_disconnect, deadline_s
        self._draining = draining
        self._scope: asyncio.Timeout | None = None

    @contextlib.asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """The block that talks to the provider. Raises TimeoutError when its time is up."""
        try:
            async with asyncio.timeout(self._deadline_s) as self._scope:
                if self.client_gone:
                    self.client_left()
                if self.broken_off:
                    self.break_off()
                yield
        finally:
            self._scope = None

    def client_left(self) -> None:
        """Nobody waits for the answer any more. Where this process drains, that is taken for the end of an edge, which
        could not have said so: new connections are refused. No client pays for what may be our doing.
        """
        if not self.client_gone:
            self.client_gone = True
            if self._draining.is_set():
                self.break_off()
            self._client_chose = not self.broken_off
        self._end_in(0.0 if self._on_disconnect == "cut" else DRAIN_S)

    def break_off(self) -> None:
        """This process ends: settle now, as a failure of ours."""
        self.broken_off = True
        self._end_in(0.0)

    @property
    def client_at_fault(self) -> bool:
        """Whether an answer whose time is up ended because of its client."""
        return self._client_chose or (self.client_waiting and not self.broken_off)

    def overdue(self, *message: str) -> ApiError:
        """What a client is told whose answer took too long for the deadline, or for this process."""
        return WorkerLost() if self.broken_off else UpstreamTimeout(*message)

    def _end_in(self, left_s: float) -> None:
        scope = self._scope
        if scope is not None and not scope.expired():
            end = asyncio.get_running_loop().time() + left_s
            scope.reschedule(min(end, scope.when() or end))

    async def settle(self, outcome: Outcome, usage: Usage | None = None, finish: Finish | None = None) -> int:
        """Make the usage durable; its cost in pico-dollars. Raises BillingUnavailable."""
        event = usage_recorded(self.asked, self.trail, outcome, usage, finish)
        await self._outbox.put(Encoded.of(event, f"worker/{self.asked.model.provider}"))
        passing("worker.durable")
        return event.cost

    async def finished(self, usage: Usage, finish: Finish | None) -> int:
        """Settle an answer that the provider brought to its end."""
        if not self.client_gone:
            return await self.settle("completed", usage, finish)
        return await self.settle("client_disconnected" if self._client_chose else "upstream_interrupted", usage, finish)

    async def failed(self, error: ApiError | Failed | TimeoutError, usage: Usage) -> ApiError:
        """Settle a request that got no answer, and return what the client is told.

        What never reached a provider leaves no record: nothing happened that could be billed.
        """
        told = self.overdue() if isinstance(error, TimeoutError) else getattr(error, "error", error)
        assert isinstance(told, ApiError)
        if self._client_chose and isinstance(error, TimeoutError):
            await self.settle("client_disconnected", usage)
        elif self.trail.attempts:
            await self.settle(outcome_of(told))
        return told
