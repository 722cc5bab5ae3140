"""The purses of an edge: the one that a workspace's requests are paid from, and those that are on their way back.

And what is still held for requests whose end it did not see: their workers know what they cost, and billing will.
"""

from itertools import islice

from services.edge.leases import Hold, Purse, Wanted
from shared.leases import MAX_PENDING

IDLE_S = 60.0  # after so long without use, all of a workspace's leases are given back
MOST_KEYS = 1_000  # under one lease: some 300 KB where they have limits of their own; then another lease is begun
PENDING_S = 3600.0  # as billing's grace: by then the usage that a worker spooled while the broker was away has come


class Purses:
    """`current` by workspace; `left` are closed as soon as what they hold is settled."""

    def __init__(self) -> None:
        self.current: dict[str, Purse] = {}
        self.left: list[Purse] = []

    def of(self, wanted: Wanted, now: float) -> Purse:
        """The purse that this request is paid from; another one begins where its key had a limit, or had none."""
        name = wanted.workspace_id
        purse = self.current.get(name)
        if purse is None or not purse.expect(wanted):
            if purse is not None:
                self.leave(name)
            purse = self.current[name] = Purse(name, used_at=now)
            purse.expect(wanted)
        return purse

    def leave(self, workspace_id: str) -> None:
        """Let no new request be paid from the workspace's purse. Raises KeyError where it has none."""
        purse = self.current.pop(workspace_id)
        purse.give_back()
        self.left.append(purse)

    def outdate(self, *workspaces: str) -> None:
        """Nothing that was lent to them before now is spent: not by requests that wait, nor when it comes late.

        What their requests hold stays held until they are settled.
        """
        for name in self.current.keys() & workspaces:
            self.leave(name)
        for purse in self.left:
            purse.outdated = purse.outdated or purse.workspace_id in workspaces

    def forget(self, closed: set[Purse]) -> None:
        """Billing has heard the last of these."""
        self.left = [purse for purse in self.left if purse not in closed]

    def tick(self, now: float) -> None:
        """What is done every ten seconds."""
        for purse in (*self.current.values(), *self.left):
            for lease in purse.all.values():
                lease.tick()
        for name, purse in tuple(self.current.items()):
            unused = purse.is_idle and now - purse.used_at > IDLE_S
            if unused or len(purse.limited) + len(purse.unlimited) > MOST_KEYS:
                self.leave(name)


class Pending:
    """Holds by request, and since when they wait for their cost."""

    def __init__(self) -> None:
        self._holds: dict[str, tuple[Hold, float]] = {}

    def add(self, hold: Hold, now: float) -> None:
        """The request is over."""
        self._holds[hold.request_id] = hold, now

    def pop(self, request_id: str) -> Hold:
        """Its cost is known."""
        return self._holds.pop(request_id)[0]

    def next(self) -> list[str]:
        """Those that were not asked about for longest: each has its turn, however many do not come."""
        names = list(islice(self._holds, MAX_PENDING))
        for name in names:
            self._holds[name] = self._holds.pop(name)
        return names

    def expired(self, now: float) -> list[Hold]:
        """Those whose cost will not come any more; they are forgotten."""
        return [self.pop(name) for name, (_, since) in tuple(self._holds.items()) if now - since > PENDING_S]
