"""How an edge spends what it was lent: pure, by a clock that is passed in (monotonic seconds), in whole pico-dollars.

A request takes a hold of what it is expected to cost, and gives it up for its exact cost. What is left of a lease is
what was granted less what was returned, used and held; every total only grows, as `shared.leases` says.
"""

from dataclasses import dataclass, field

from services.edge.usual import Usual
from shared.ids import new_id
from shared.leases import FLOOR_PICO, Ask, Lent

LOW_PERCENT = 40  # of what there was after the last answer: below it, more is asked for while requests go on

HOLDS = 4  # times the most that was held at once: with less, a hold alone would look as if little were left


@dataclass(eq=False, slots=True)
class Lease:
    """A part of a workspace's credit, or of a key's limit."""

    granted_pico: int = 0
    returned_pico: int = 0
    used_pico: int = 0
    held_pico: int = 0
    valid_until: float = 0.0
    full_pico: int = 0  # what was left after the last answer
    is_low: bool = False  # it is time to ask for more
    answer: Lent | None = None
    told: tuple[int, int] = (0, 0)
    _recent: tuple[int, int] = (0, 0)
    _peaks: tuple[int, int] = (0, 0)

    @property
    def left_pico(self) -> int:
        """What more may be spent; below 0 where a request was let in for the last of it, or cost more than its hold."""
        return self.granted_pico - self.spoken_for_pico

    @property
    def spoken_for_pico(self) -> int:
        """All that is gone, or may be."""
        return self.returned_pico + self.used_pico + self.held_pico

    @property
    def has_news(self) -> bool:
        """Whether billing has not heard yet how far it is."""
        return self.told != (self.used_pico, self.returned_pico)

    @property
    def is_short(self) -> bool:
        """Whether what was needed last was not there."""
        return self.answer is not None and self.answer.short

    @property
    def is_recalled(self) -> bool:
        """Whether other edges were asked to give back what they have of it."""
        return self.answer is not None and self.answer.recalled

    @property
    def is_scarce(self) -> bool:
        """Whether nothing is to be kept that is not in use."""
        return self.answer is not None and self.answer.scarce

    def covers(self, amount_pico: int, now: float) -> bool:
        """Whether so much is left, and may still be spent."""
        return now < self.valid_until and self.left_pico >= amount_pico

    def hold(self, amount_pico: int) -> None:
        """A request begins."""
        self.held_pico += amount_pico
        self.is_low = self.is_low or self.left_pico * 100 < self.full_pico * LOW_PERCENT
        self._peaks = (self._peaks[0], max(self._peaks[1], self.held_pico))

    def settle(self, held_pico: int, cost_pico: int) -> None:
        """A hold becomes what the request really cost."""
        self.held_pico -= held_pico
        self.used_pico += cost_pico

    def give_back(self) -> None:
        """Return what is left, and ask for no more until a request needs it."""
        self.returned_pico += max(0, self.left_pico)
        self.full_pico, self.is_low = 0, False

    def want_pico(self, waiting_pico: int) -> int:
        """How much there should be left: the spend of the last ten seconds or so, and some times what was held at once,
        which is often far more than was spent, or what those who wait will hold.
        """
        before, since = self._recent
        return max(before, self.used_pico - since, HOLDS * max(*self._peaks, waiting_pico), FLOOR_PICO)

    def tick(self) -> None:
        """Called every ten seconds: what was used, and held at most, since the last time is what is recent."""
        _, since = self._recent
        self._peaks = (self._peaks[1], self.held_pico)
        self._recent = (self.used_pico - since, self.used_pico)

    def answered(self, asked: Ask, lent: Lent, asked_at: float) -> None:
        """Billing's answer. It is good from when it was asked for: a late one for less long, or not at all.

        Nothing is spent of a lease that billing closed: what was left of it belongs to others now.
        """
        self.granted_pico = max(self.granted_pico, lent.granted_pico)
        self.valid_until = 0.0 if lent.closed else max(self.valid_until, asked_at + lent.ttl_s)
        self.full_pico, self.is_low = max(0, self.left_pico), False
        self.told = max(self.told, (asked.used_pico, asked.returned_pico))
        self.answer = lent


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request needs, at the most. `limited`: its key has a spend limit of its own. `usual` is given where it set
    no limit to its answer, whose part of the most is `output_pico`.
    """

    request_id: str
    workspace_id: str
    key_id: str
    limited: bool
    most_pico: int
    strict: bool
    usual: Usual | None = None
    output_pico: int = 0

    @property
    def amount_pico(self) -> int:
        """What it holds; less and less as long as it waits while others are answered."""
        spare_pico = self.output_pico - self.usual.of(self.output_pico) if self.usual else 0
        return max(1, self.most_pico - spare_pico)  # no credit, no gift

    def cost(self, pico: int) -> None:
        """What it has cost in the end; nothing, where it failed, which tells nothing of answers."""
        if self.usual is not None and pico:
            self.usual.seen(max(0, pico - (self.most_pico - self.output_pico)))

    @property
    def limited_key_id(self) -> str | None:
        """The key whose limit it counts against, too."""
        return self.key_id if self.limited else None


@dataclass(frozen=True, slots=True)
class Hold:
    """What one request may cost, until its cost is known. `key_id` where the key has a limit of its own."""

    purse: "Purse"
    request_id: str
    key_id: str | None
    amount_pico: int

    def settle(self, cost_pico: int) -> None:
        """The request is over, and cost this. May be called once."""
        for lease in self.purse.leases(self.key_id):
            lease.settle(self.amount_pico, cost_pico)


@dataclass(eq=False, slots=True)
class Purse:
    """All that an edge was lent of one workspace, under one lease id."""

    workspace_id: str
    lease_id: str = field(default_factory=new_id)
    credit: Lease = field(default_factory=Lease)
    limited: dict[str, Lease] = field(default_factory=dict)
    unlimited: set[str] = field(default_factory=set)
    waiting: int = 0  # requests that take their hold when billing has answered
    running: int = 0  # requests that hold something and will tell what they cost
    used_at: float = 0.0
    outdated: bool = False  # the account has changed since: nothing more is spent of it, whatever it was lent

    def expect(self, wanted: Wanted) -> bool:
        """Whether this request may be paid from it: under one lease a key has a limit throughout, or never."""
        if wanted.key_id in (self.unlimited if wanted.limited else self.limited):
            return False
        if wanted.limited:
            self.limited.setdefault(wanted.key_id, Lease())
        else:
            self.unlimited.add(wanted.key_id)
        return True

    def leases(self, key_id: str | None) -> tuple[Lease, ...]:
        """What a request of this key is paid from: the credit first, as a client meets the gates."""
        if key_id is None:
            return (self.credit,)
        return (self.credit, self.limited.setdefault(key_id, Lease()))

    @property
    def all(self) -> dict[str | None, Lease]:
        """Every lease by its key; None is the credit."""
        credit: dict[str | None, Lease] = {None: self.credit}
        return credit | self.limited

    @property
    def edges(self) -> int:
        """How many edges spend from the workspace, as billing said last."""
        return self.credit.answer.edges if self.credit.answer else 1

    @property
    def is_closed(self) -> bool:
        """Whether billing gave it up."""
        return any(lease.answer is not None and lease.answer.closed for lease in self.all.values())

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, nor about to be."""
        return self.credit.held_pico == 0 and not self.waiting

    def take(self, request_id: str, key_id: str | None, amount_pico: int, now: float) -> Hold | None:
        """A hold, where there is enough for all of it."""
        if not self._covers(key_id, amount_pico, now):
            return None
        return self._hold(request_id, key_id, amount_pico, now)

    def take_last(self, request_id: str, key_id: str | None, amount_pico: int, now: float) -> Hold | None:
        """A hold as long as there is anything: what a workspace that is not strict may pass its credit by."""
        if not self._covers(key_id, 1, now):
            return None
        return self._hold(request_id, key_id, amount_pico, now)

    def short(self, key_id: str | None, amount_pico: int) -> Lease | None:
        """The first lease without that much, of which billing said that there is no more."""
        return next((one for one in self.leases(key_id) if one.is_short and one.left_pico < amount_pico), None)

    def may_have(self, lease: Lease | None, amount_pico: int) -> bool:
        """Whether there would be that much, if the requests that run now cost nothing."""
        return bool(self.running) and lease is not None and lease.left_pico + lease.held_pico >= amount_pico

    def give_back(self) -> None:
        """Return what is left of everything."""
        for lease in self.all.values():
            lease.give_back()

    def ask(self, key_id: str | None, waiting_pico: int = 0, needed_pico: int = 0, **how: bool) -> Ask:
        """How far a lease is, and what it wants: to have enough left, and for those who wait at least `needed_pico`."""
        lease = self.all[key_id]
        gone = lease.spoken_for_pico
        wants = bool(waiting_pico) or (lease.is_low and not how.get("final"))
        return Ask(
            lease_id=self.lease_id,
            workspace_id=self.workspace_id,
            key_id=key_id,
            used_pico=lease.used_pico,
            returned_pico=lease.returned_pico,
            wanted_pico=gone + lease.want_pico(waiting_pico) if wants else 0,
            needed_pico=gone + needed_pico if needed_pico else 0,
            **how,
        )

    def _covers(self, key_id: str | None, amount_pico: int, now: float) -> bool:
        return not self.outdated and all(lease.covers(amount_pico, now) for lease in self.leases(key_id))

    def _hold(self, request_id: str, key_id: str | None, amount_pico: int, now: float) -> Hold:
        for lease in self.leases(key_id):
            lease.hold(amount_pico)
        self.used_at = now
        self.running += 1
        return Hold(self, request_id, key_id, amount_pico)
