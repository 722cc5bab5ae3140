"""What is measured: this gateway on real servers, the upstream alone to compare with, and peers that run already."""

import contextlib
import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic

from shared import catalog
from shared.money import Tokens, cost_pico
from tests import servers
from tests.bench.native import Address
from tests.bench.processes import rss_mib
from tests.e2e import stacks
from tests.e2e.stacks import ADMIN, KEY, Stack, until
from tests.servers import Server, Unavailable

MODEL = "anthropic/claude-sonnet-4-5"
CANNED = Tokens(input=210, output=96)  # what mock.c says that every answer used
CREDIT_USD = "10000"  # 4.8 million requests: no run comes near it
PEERS = ("TensorZero", "LiteLLM", "Portkey")


def _nothing(_requests: int) -> None:
    """Nobody else keeps books."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send requests, and whose CPU time they cost: groups of process ids, of which `gateway` is pinned.

    `settle` is told how many requests were answered, and returns once all of them are on the books.
    """

    name: str
    address: Address
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    settle: Callable[[int], None] = _nothing


def direct(mock_port: int) -> Target:
    """The upstream without a gateway."""
    return Target("direct", Address(mock_port, "/v1/messages", MODEL))


def peer(text: str) -> Target:
    """A gateway that runs already, as `NAME:PORT:PID:MODEL`. Raises ValueError."""
    name, port, pid, model = text.split(":", 3)
    return Target(name, Address(int(port), "/v1/chat/completions", model), {"gateway": (int(pid),)})


@contextlib.contextmanager
def opentoken(mock_port: int) -> Iterator[Target]:
    """This gateway, each service a process of its own, on RabbitMQ and PostgreSQL. Raises Unavailable."""
    with (
        servers.postgres_server() as postgres,
        servers.rabbitmq_server() as rabbitmq,
        servers.database(postgres) as database_url,
        servers.vhost(rabbitmq) as broker_url,
        stacks.separate(database_url, broker_url, f"http://127.0.0.1:{mock_port}") as stack,
    ):
        pids = {name: (service.process.pid,) for name, service in stack.services.items()}
        groups = {
            "gateway": pids["edge"] + pids["worker-anthropic"],
            "edge": pids["edge"],
            "worker": pids["worker-anthropic"],
            "billing": pids["billing"],
            **_group("broker", rabbitmq),
            **_group("database", postgres),
        }
        address = Address(int(stack.base_url.split(":")[2].partition("/")[0]), "/v1/chat/completions", MODEL, KEY)
        yield Target("OpenToken", address, groups, Books(stack).settle)


def _group(name: str, server: Server) -> dict[str, tuple[int, ...]]:
    """A server that was given by its URL may run anywhere: its CPU time is not ours to read."""
    try:
        return {name: (server.pid,)}
    except Unavailable:
        return {}


class Books:
    """The demo workspace's balance: it has to fall by the price of each request, and by nothing else."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._price_pico = stack, cost_pico(CANNED, catalog.load()[MODEL].rates)
        body = json.dumps({"amount_usd": CREDIT_USD, "reference": "benchmark"}).encode()
        headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
        url = f"{stack.billing_url}/admin/workspaces/demo/credits"
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10):
            self._due_pico = stack.balance_pico()

    def settle(self, requests: int) -> None:
        """Return when the ledger has charged for exactly this many more; fails where it never comes to that."""
        self._due_pico -= requests * self._price_pico
        until(lambda: self._stack.balance_pico() == self._due_pico, f"{requests} requests are charged for")


def memory_mib(target: Target) -> dict[str, float]:
    """Resident memory of the edge and of the worker."""
    return {name: rss_mib(*target.groups[name]) for name in ("edge", "worker")}


def readiness_s() -> float:
    """From the start of the embedded stack, in a fresh folder, until it says that it is ready."""
    started = monotonic()
    with stacks.local():
        return monotonic() - started
