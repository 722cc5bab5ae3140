"""The whole of OpenToken as its users run it: one process, or each service as a process of its own."""

import contextlib
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests import servers
from tests.e2e import balancer
from tests.servers import Server
from tests.servers.process import Keeper, Process, free_ports

ROOT = Path(__file__).parents[2]
READY_TIMEOUT_S = 60.0  # services start within seconds; a busy machine may need ten times that
SETTLED_TIMEOUT_S = 30.0
KEY = "sk-optk-EndToEndTest-" + "k" * 43
INTERNAL, ADMIN, AUDITOR = ("internal-token-of-tests", "admin-token-of-tests", "auditor-token-of-tests")
FOREIGN = re.compile(r"^(OPENTOKEN|ANTHROPIC|GEMINI|GOOGLE|OPENAI)_")  # the tester's own keys stay out of it


class Service:
    """One process of ours; it can be killed and started again."""

    def __init__(self, name: str, module: str, env: Mapping[str, str], url: str) -> None:
        self.name, self.url = name, url
        self._keeper = Keeper(name)
        clean = {key: value for key, value in os.environ.items() if not FOREIGN.match(key)}
        own = {"OPENTOKEN_DATA_DIR": str(self._keeper.folder), "OPENTOKEN_LOG_FORMAT": "json", "PYTHONPATH": str(ROOT)}
        self.env = clean | own | dict(env)  # of the next start
        self.process = Process([sys.executable, "-m", module], self._keeper, env=self.env)

    def start(self) -> None:
        """Start it, and return when all that it depends on answers."""
        self.process.start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return when it, and all that it depends on, answers."""
        path = "health" if self.name == "simulator" else "ready"
        until(lambda: fetch(f"{self.url}/{path}")["status"] == "ok", f"{self.name} is ready", self.process)

    def told_to_stop(self) -> None:
        """Send it SIGTERM."""
        os.kill(self.process.pid, signal.SIGTERM)

    def exit_code(self) -> int:
        """How it ended by itself; it can be started again."""
        code = self.process.wait()
        self.process.kill()
        return code

    def log(self) -> str:
        return (self._keeper.folder / "server.log").read_text(errors="replace")

    @property
    def folder(self) -> Path:
        """Where its data and its log lie."""
        return self._keeper.folder

    def close(self) -> None:
        self.process.close()
        self._keeper.close()


@dataclass
class Stack:
    """Where a running OpenToken answers."""

    base_url: str
    billing_url: str
    key: str = KEY
    workspace: str = "demo"
    simulator_url: str | None = None
    base_urls: list[str] = field(default_factory=list)
    services: dict[str, Service] = field(default_factory=dict)

    @property
    def edges(self) -> list["Stack"]:
        """The same stack through each of its edges."""
        return [replace(self, base_url=url) for url in self.base_urls]

    def audit(self, path: str, **query: Any) -> dict[str, Any]:
        """An answer of the audit API."""
        parameters = "&".join(f"{name}={value}" for name, value in query.items())
        return fetch(f"{self.billing_url}{path}?{parameters}", AUDITOR)

    def balance_pico(self) -> int:
        return int(self.audit(f"/v1/workspaces/{self.workspace}/balance")["balance_pico_usd"])

    def records(self) -> list[dict[str, Any]]:
        """All usage records of the workspace."""
        return self._all(f"/v1/workspaces/{self.workspace}/usage")

    def entries(self) -> list[dict[str, Any]]:
        """All ledger entries of the workspace."""
        return self._all(f"/v1/workspaces/{self.workspace}/entries")

    def settled(self, request_id: str) -> dict[str, Any]:
        """The receipt of a request, as soon as it is on the books."""
        return until(lambda: self.audit(f"/v1/generations/{request_id}"), f"{request_id} is settled")

    def _all(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        page = self.audit(path, limit=1000)
        found += page["data"]
        while page["has_more"]:
            page = self.audit(path, limit=1000, cursor=page["next_cursor"])
            found += page["data"]
        return found


def fetch(url: str, token: str | None = None) -> Any:
    """A JSON answer; raises urllib.error.URLError for whatever is not 200."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return json.load(answer, parse_float=Decimal)


def until(condition: Any, what: str, process: Process | None = None, *, timeout_s: float = READY_TIMEOUT_S) -> Any:
    """What `condition` returns, as soon as it is true; a connection that fails counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            if result := condition():
                return result
        log = process.failure() if process else None
        assert log is None, f"{what}: the process has ended:\n{log}"
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


SECRETS = {
    "OPENTOKEN_INTERNAL_TOKEN": INTERNAL,
    "OPENTOKEN_ADMIN_TOKEN": ADMIN,
    "OPENTOKEN_AUDITOR_TOKEN": AUDITOR,
    "OPENTOKEN_BOOTSTRAP_KEY": KEY,
}


@contextlib.contextmanager
def local(env: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """`python -m services.local`, as `make run` starts it."""
    edge, billing = free_ports(2)
    ports = {"OPENTOKEN_EDGE_PORT": str(edge), "OPENTOKEN_BILLING_PORT": str(billing)}
    url = f"http://127.0.0.1:{edge}"
    with contextlib.closing(Service("local", "services.local", {**SECRETS, **ports, **(env or {})}, url)) as service:
        service.start()
        yield Stack(f"{url}/v1", f"http://127.0.0.1:{billing}", services={"local": service})


@contextlib.contextmanager
def separate(
    database_url: str, broker_url: str, upstream_url: str | None = None, *, replicas: int = 1, edges: int = 0
) -> Iterator[Stack]:
    """Each service as a process of its own, over RabbitMQ and PostgreSQL; the upstream is by default the simulator.

    Of edge, billing and each worker there are `replicas`, or of the edge alone `edges`: `edge`, `edge-2` and so on. The
    billing services stand behind one address.
    """
    kinds = ["billing", "worker-anthropic", "worker-google", "edge"]
    names = ["simulator", *(_replica(kind, n) for n in range(1, replicas + 1) for kind in kinds)]
    names += [_replica("edge", n) for n in range(replicas + 1, edges + 1)]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}

    def all_of(kind: str) -> list[str]:
        return [urls[_replica(kind, n)] for n in range(1, replicas + 1)]

    upstream = upstream_url or urls["simulator"]
    migrate(database_url)
    with contextlib.ExitStack() as stack:
        billing_url = stack.enter_context(
            balancer.in_front_of([ports[_replica("billing", n + 1)] for n in range(replicas)])
        )
        common = {
            **SECRETS,
            "OPENTOKEN_HOST": "127.0.0.1",
            "OPENTOKEN_BROKER_URL": broker_url,
            "OPENTOKEN_METRICS_PORT": "0",
        }
        own = {
            "simulator": {},
            "billing": {"OPENTOKEN_DATABASE_URL": database_url},
            "worker-anthropic": {"ANTHROPIC_API_KEY": "simulated", "ANTHROPIC_BASE_URL": upstream},
            "worker-google": {"GEMINI_API_KEY": "simulated", "GOOGLE_GEMINI_BASE_URL": upstream},
            "edge": {
                "OPENTOKEN_BILLING_URL": billing_url,
                "OPENTOKEN_WORKER_URLS": json.dumps({n: all_of(f"worker-{n}") for n in ("anthropic", "google")}),
            },
        }
        services = {}
        for name in names:
            kind = re.sub(r"-\d+$", "", name)
            env = {**common, **own[kind], "OPENTOKEN_PORT": str(ports[name])}
            module = f"services.{kind.replace('worker-', 'workers.')}"
            services[name] = stack.enter_context(contextlib.closing(Service(name, module, env, urls[name])))
        services["billing"].start()  # before the others of its kind: it makes the demo workspace
        others = [service for name, service in services.items() if name != "billing"]
        for service in others:
            service.process.start()
        for service in others:
            service.wait_until_ready()
        base_urls = [f"{urls[name]}/v1" for name in names if name.partition("-")[0] == "edge"]
        simulator_url = urls["simulator"]
        yield Stack(base_urls[0], billing_url, simulator_url=simulator_url, base_urls=base_urls, services=services)


def _replica(kind: str, number: int) -> str:
    return kind if number == 1 else f"{kind}-{number}"


@contextlib.contextmanager
def on_servers(postgres: Server, rabbitmq: Server, *, replicas: int = 1) -> Iterator[Stack]:
    """Separate processes on a database and a virtual host of their own."""
    with (
        servers.database(postgres) as database_url,
        servers.vhost(rabbitmq) as broker_url,
        separate(database_url, broker_url, replicas=replicas) as stack,
    ):
        yield stack


def migrate(database_url: str) -> None:
    """Run the migrations, as a step of their own."""
    keeper = Keeper("migrations")
    env = {**os.environ, "OPENTOKEN_DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)}
    process = Process([sys.executable, "-m", "services.billing.migrations"], keeper, env=env)
    with contextlib.closing(keeper), contextlib.closing(process):
        process.start()
        assert process.wait() == 0, process.failure()
