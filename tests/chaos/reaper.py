"""The reaper: kills, stops and cuts at random, by a seed; whatever it strikes comes back at once, or seconds later."""

import os
import random
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.e2e.stacks import until
from tests.faults.cluster import Cluster
from tests.servers import Server
from tests.servers.process import Process
from tests.servers.server import Life

STRIKE_EVERY_S = 1.0  # of the processes of ours, on average
SERVER_EVERY_S = 20.0  # RabbitMQ takes some 8 s to come back
STOPPED_S = (1.0, 5.0)
ANSWER_TIMEOUT_S = 1.0
HEALED_TIMEOUT_S = 120.0  # consumers come back seconds after the broker does
OURS, SERVERS = (0.75, 0.2, 0.05), (0.75, 0.25, 0.0)  # the shares of kills, stops and cuts
KILLS_ONLY = (1.0, 0.0, 0.0)  # what can be done to a server in a container


@dataclass(frozen=True, slots=True)
class Victim:
    """A process that may be struck, once it stands again after the last time."""

    name: str
    process: Life
    stands: Callable[[], bool]


class Reaper:
    """Strikes until its time is up, then heals everything."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.kills, self.stops, self.cuts, self.ends = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
        self._cluster, self._random = cluster, random.Random(seed)
        ours = {name: service for name, service in cluster.services.items() if name != "simulator"}
        self._ours = [Victim(name, one.process, partial(_answers, f"{one.url}/health")) for name, one in ours.items()]
        self._servers = [_victim(one) for one in (cluster.broker.server, cluster.postgres)]
        processes = all(isinstance(one.process, Process) for one in self._servers)
        self._server_shares = SERVERS if processes else KILLS_ONLY
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._struck: set[str] = set()  # stopped, and not yet told to go on

    def reap(self, seconds: float) -> None:
        """Strike for so long."""
        end = time.monotonic() + seconds
        server_due = time.monotonic() + SERVER_EVERY_S / 2
        while (now := time.monotonic()) < end:
            self._come_back(now)
            self._supervise()
            if now >= server_due:
                self._strike(self._servers, self._server_shares)
                server_due = now + self._random.uniform(0.7, 1.3) * SERVER_EVERY_S
            else:
                self._strike(self._ours, OURS)
            time.sleep(self._random.uniform(0.5, 1.5) * STRIKE_EVERY_S)

    def heal(self) -> None:
        """Return when everything runs, and all that it depends on answers."""
        self._come_back(float("inf"))
        self._cluster.link.heal()
        for server in (self._cluster.broker.server, self._cluster.postgres):
            server.await_serving()
        until(self._all_stand, "everything stands again", timeout_s=HEALED_TIMEOUT_S)

    def _all_stand(self) -> bool:
        self._supervise()
        return all(_answers(f"{one.url}/ready") for name, one in self._cluster.services.items() if name != "simulator")

    def _supervise(self) -> None:
        """Start again what has ended by itself, as a deployment does: billing will not start without its database."""
        for victim in self._ours:
            if victim.process.failure() is not None:
                self.ends[victim.name] += 1
                victim.process.kill()
                victim.process.start()

    def _come_back(self, now: float) -> None:
        due = [action for at, action in self._later if at <= now]
        self._later = [(at, action) for at, action in self._later if at > now]
        for action in due:
            action()

    def _strike(self, victims: list[Victim], shares: tuple[float, float, float]) -> None:
        standing = [one for one in victims if one.name not in self._struck and one.stands()]
        if not standing:
            return
        victim = self._random.choice(standing)
        (strike,) = self._random.choices((self._kill, self._stop, self._cut), shares)
        strike(victim)

    def _kill(self, victim: Victim) -> None:
        self.kills[victim.name] += 1
        victim.process.kill()
        victim.process.start()

    def _stop(self, victim: Victim) -> None:
        self.stops[victim.name] += 1
        self._struck.add(victim.name)
        group = victim.process.pid
        os.killpg(group, signal.SIGSTOP)

        def go_on() -> None:
            os.killpg(group, signal.SIGCONT)
            self._struck.discard(victim.name)

        self._after_a_while(go_on)

    def _cut(self, _: Victim) -> None:
        strike = self._random.choice((self._cluster.link.cut, self._cluster.link.freeze))
        self.cuts[strike.__name__] += 1
        strike()
        self._after_a_while(self._cluster.link.heal)

    def _after_a_while(self, action: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + self._random.uniform(*STOPPED_S), action))


def _victim(server: Server) -> Victim:
    assert server.life  # or there would be no cluster
    return Victim(server.name, server.life, partial(_serves, server))


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_TIMEOUT_S):
            return True
    except OSError:
        return False


def _serves(server: Server) -> bool:
    try:
        return bool(server.ask())
    except ConnectionError:
        return False
