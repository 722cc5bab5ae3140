"""How much of a workspace's credit, or of a key's limit, is lent to which edge: pure, in whole pico-dollars.

What is lent and not yet on the books is outstanding, and nobody else's. A request's cost leaves its lease in the very
transaction that books it, so it is never counted twice, nor not at all. A lease that its edge stopped asking about is
freed only long after: its usage may still be on the way.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from shared.leases import FLOOR_PICO, TTL_S, Ask

GRACE: Final = timedelta(hours=1)  # after a lease ran out: spooled usage of a worker that was away has come by then


@dataclass(frozen=True, slots=True)
class Loan:
    """A lease as billing knows it; `key_id` "" is the workspace's credit. `expires_at`: unless the edge asks again."""

    lease_id: str
    key_id: str
    edge: str
    workspace_id: str
    expires_at: datetime
    granted_pico: int = 0
    returned_pico: int = 0
    used_pico: int = 0
    booked_pico: int = 0
    closed: bool = False

    @property
    def outstanding_pico(self) -> int:
        """What may still reach the books because of it."""
        return max(0, max(self.granted_pico - self.returned_pico, self.used_pico) - self.booked_pico)

    def told(self, ask: Ask, now: datetime) -> "Loan":
        """What its edge says; anything older than what is known changes nothing. Closed, it is what was used."""
        closed = self.closed or ask.final
        used_pico = max(self.used_pico, ask.used_pico)
        returned_pico = max(self.returned_pico, ask.returned_pico)
        if closed:
            returned_pico = max(returned_pico, self.granted_pico - used_pico)
        expires_at = self.expires_at if self.closed else now + timedelta(seconds=0 if closed else TTL_S)
        return replace(self, used_pico=used_pico, returned_pico=returned_pico, closed=closed, expires_at=expires_at)

    def is_over(self, now: datetime, listening_since: datetime) -> bool:
        """Whether to forget it, and to lend what is left of it to others.

        While nobody listened, no edge could renew its lease, nor could usage arrive: that time is no part of the grace.
        """
        return now >= max(self.expires_at, listening_since) + GRACE


@dataclass(frozen=True, slots=True)
class Pot:
    """What there is to lend from: the balance of a workspace, or a key's limit less what it spent in its window."""

    limit_pico: int
    loans: tuple[Loan, ...]

    @property
    def available_pico(self) -> int:
        """What is neither spent nor lent."""
        return self.limit_pico - sum(loan.outstanding_pico for loan in self.loans)

    def edges(self, asking: str, now: datetime) -> int:
        """How many edges spend from it, the asking one included."""
        return len({loan.edge for loan in self.loans if not loan.closed and now < loan.expires_at} | {asking})

    def is_held_by_others(self, asking: str) -> bool:
        """Whether other edges could give something back."""
        return any(loan.outstanding_pico for loan in self.loans if loan.edge != asking and not loan.closed)


def more_pico(loan: Loan, ask: Ask, pot: Pot, now: datetime) -> int:
    """How much more to grant of an open lease: what is wanted, but no more than a fair share, so that leases shrink as
    credit does; at least what is needed, or nothing, where less will not do. Never more than there is.
    """
    available_pico = max(0, pot.available_pico)
    wanted_pico, needed_pico = ask.wanted_pico - loan.granted_pico, ask.needed_pico - loan.granted_pico
    if loan.closed or wanted_pico <= 0:
        return 0
    if needed_pico > available_pico:
        return available_pico if ask.less_will_do else 0
    return max(needed_pico, min(wanted_pico, share_pico(pot, loan.edge, now)))


def share_pico(pot: Pot, edge: str, now: datetime) -> int:
    """What one edge should hold at most: half of its equal part, so that there is always something for the next."""
    return max(0, pot.available_pico) // (2 * pot.edges(edge, now))


def is_scarce(pot: Pot, edge: str, now: datetime) -> bool:
    """Whether there is so little that edges should keep nothing they do not use."""
    return share_pico(pot, edge, now) < FLOOR_PICO
