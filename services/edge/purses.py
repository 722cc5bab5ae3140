"""The purses of an edge: the one that a workspace's requests are paid from, and those that are on their way back."""

from services.edge.leases import Purse, Wanted

IDLE_S = 60.0  # after so long without use, all of a workspace's leases are given back
MOST_KEYS = 1_000  # under one lease: some 300 KB where they have limits of their own; then another lease is begun


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
