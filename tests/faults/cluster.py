"""A whole OpenToken that may be hurt: processes, servers and a network of its own, which all can fail and be healed.

edge-1 …  ──▶ worker-anthropic, worker-google ──▶ simulator
   └──▶ front ──▶ billing-1 …   (the first that accepts, as behind a Service)      all ──▶ link ──▶ RabbitMQ
"""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from services.billing.bootstrap import WORKSPACE
from shared.events import PARKED_QUEUE
from shared.failpoints import VARIABLE
from shared.ids import new_id
from tests import servers
from tests.e2e.stacks import ADMIN, AUDITOR, ROOT, SECRETS, Service, Stack, fetch, migrate, until
from tests.faults.broker import Broker
from tests.faults.link import Link
from tests.faults.poison import event, message
from tests.servers import Server
from tests.servers.process import Keeper, free_ports

WORKERS = ("worker-anthropic", "worker-google")
CREDIT_USD = 1000  # more than any test spends
VERIFY_TIMEOUT_S = 300.0
STRUCK_TIMEOUT_S = 120.0  # for a service to start, and to come by its failpoint


@dataclass(frozen=True, slots=True)
class Cluster:
    """What there is to hurt. Service names: `edge-1`…, `billing-1`…, the WORKERS, `simulator`."""

    services: dict[str, Service]
    edges: list[Service]
    billing_url: str
    link: Link
    broker: Broker
    postgres: Server
    database_url: str
    folder: Path

    @property
    def producers(self) -> list[Service]:
        """The services that publish usage."""
        return [self.services[name] for name in self.services if name.startswith(("edge", "worker"))]

    @property
    def served_log(self) -> Path:
        """The simulator's own log of what it served: JSON lines."""
        return self.folder / "served.jsonl"

    def crashes(self, name: str, *failpoints: str) -> None:
        """End a service in order, start it once for each failpoint to be killed by it, and then as it was."""
        self.services[name].process.stop()
        for failpoint in failpoints:
            self.start_armed(name, failpoint)
            self.await_death(name)
        self.services[name].start()

    def start_armed(self, name: str, failpoint: str) -> None:
        """Start a service that ends at a failpoint; does not wait until it is ready, for it may end before."""
        service = self.services[name]
        service.env[VARIABLE] = failpoint
        service.process.start()
        del service.env[VARIABLE]

    def await_death(self, name: str) -> None:
        """Return when a service has killed itself."""
        process = self.services[name].process
        until(process.failure, f"{name} dies", timeout_s=STRUCK_TIMEOUT_S)
        assert process.wait() == -signal.SIGKILL, process.failure()
        process.kill()

    def await_stop(self, name: str) -> None:
        """Return when a service has stopped itself: it lives, and does nothing."""
        pid = str(self.services[name].process.pid)
        ask = ["ps", "-o", "stat=", "-p", pid]
        until(lambda: "T" in subprocess.run(ask, capture_output=True, text=True, check=True).stdout, f"{name} stops")

    def restore(self, but: str) -> None:
        """After a test that may have failed half-way: all services run, `but` for one."""
        self.link.heal()
        self.services[but].process.close()
        for name, service in self.services.items():
            if name != but and service.process.failure() is not None:
                service.process.close()
                service.start()

    def served(self) -> int:
        """How many requests the provider has served so far."""
        return self.served_log.read_bytes().count(b"\n") if self.served_log.exists() else 0

    def account(self) -> Stack:
        """A workspace of its own with credit and a key: nobody else's requests are on its books."""
        workspace = f"w-{new_id()}"
        self._admin("workspaces", {"id": workspace, "name": workspace})
        self._admin(f"workspaces/{workspace}/credits", {"amount_usd": str(CREDIT_USD), "reference": workspace})
        key = self._admin(f"workspaces/{workspace}/keys", {"label": "witness"})["secret"]
        return Stack(f"{self.edges[0].url}/v1", self.billing_url, key, workspace, services=self.services)

    def drain(self) -> None:
        """Return when every spool is empty."""
        until(lambda: not any(map(spooled, self.producers)), "every spool is empty")

    def quiesce(self) -> None:
        """Return when nothing is under way: producers were ended in order, spools are empty, queues read out."""
        for service in self.producers:
            service.told_to_stop()
        codes = {service.name: service.exit_code() for service in self.producers}
        assert set(codes.values()) == {0}, codes
        start(self.producers)
        self.drain()
        marker = event(WORKSPACE, key_id=self.sql("SELECT min(id) FROM api_key WHERE workspace_id = %s", WORKSPACE))
        self.broker.publish(message(marker))  # the queue is in order: with this on record, all before it is, too
        receipt = f"/v1/generations/{marker.request_id}"
        until(lambda: fetch(self.billing_url + receipt, AUDITOR), "the queue is read out")

    def quarantined(self) -> int:
        """Events that could not be booked."""
        return int(self.sql("SELECT count(*) FROM quarantine"))

    def sql(self, query: str, *parameters: Any) -> Any:
        """The first column of the first row."""
        with psycopg.connect(self.database_url.replace("+psycopg", "")) as connection:
            row = connection.execute(query.encode(), parameters).fetchone()
        assert row is not None
        return row[0]

    def parked(self) -> int:
        """Messages that the broker gave up delivering."""
        return self.broker.depth(PARKED_QUEUE)

    def verify(self) -> str:
        """The last line of `opentoken verify`, a process of its own, against the checkpoints outside."""
        arguments = ("--checkpoints", str(self.folder / "checkpoints"), "--key", str(self.folder / "signing.key.pub"))
        done = subprocess.run(
            [sys.executable, "-m", "services.cli", "verify", "--database", self.database_url, *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=VERIFY_TIMEOUT_S, check=False,
        )  # fmt: skip
        return done.stderr.strip().rpartition("\n")[2]

    def _admin(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
        url = f"{self.billing_url}/admin/{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


def start(services: Collection[Service]) -> None:
    """Start services at once, and return when all are ready."""
    for service in services:
        service.process.start()
    for service in services:
        service.wait_until_ready()


def spooled(service: Service) -> int:
    """Events that wait in a service's spool."""
    file = service.folder / "spool/spool.db"
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        (count,) = database.execute("SELECT count(*) FROM event").fetchone()
    return int(count)


@contextlib.contextmanager
def running(*, edges: int = 1, billings: int = 1) -> Iterator[Cluster]:
    """A cluster on servers of its own, so that killing them disturbs no other test."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres_server())
        rabbitmq = stack.enter_context(servers.rabbitmq_server())
        if postgres.life is None or rabbitmq.life is None:
            pytest.skip("a server from the environment is not ours to kill")
        database_url = stack.enter_context(servers.database(postgres))
        broker = Broker(rabbitmq, stack.enter_context(servers.vhost(rabbitmq)))
        folder = stack.enter_context(contextlib.closing(Keeper("cluster"))).folder
        names = ["simulator", *_numbered("billing", billings), *WORKERS, *_numbered("edge", edges)]
        front, to_broker, *ports = free_ports(2 + len(names))
        urls = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
        link = stack.enter_context(contextlib.closing(Link(to_broker, [int(urlsplit(broker.url).port or 0)])))
        billing_ports = [port for name, port in zip(names, ports, strict=True) if name.startswith("billing")]
        stack.enter_context(contextlib.closing(Link(front, billing_ports)))
        billing_url = f"http://127.0.0.1:{front}"
        login, _, _ = urlsplit(broker.url).netloc.rpartition("@")
        broker_url = urlsplit(broker.url)._replace(netloc=f"{login}@127.0.0.1:{to_broker}").geturl()
        settings = _settings(urls, broker_url, billing_url, database_url, folder)
        migrate(database_url)
        _make_key(folder / "signing.key")
        services = {}
        for name in names:
            env = settings[_kind(name)] | {"OPENTOKEN_PORT": urls[name].rpartition(":")[2]}
            module = f"services.{_kind(name).replace('worker-', 'workers.')}"
            services[name] = stack.enter_context(contextlib.closing(Service(name, module, env, urls[name])))
        start(services.values())
        cluster = Cluster(
            services, [services[name] for name in _numbered("edge", edges)], billing_url, link, broker, postgres,
            database_url, folder,
        )  # fmt: skip
        yield cluster


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}-{number}" for number in range(1, count + 1)]


def _kind(name: str) -> str:
    """`edge` of `edge-1`; a worker keeps its provider's name."""
    return name.rstrip("0123456789").removesuffix("-")


def _settings(
    urls: dict[str, str], broker_url: str, billing_url: str, database_url: str, folder: Path
) -> dict[str, dict[str, str]]:
    """The environment of each kind of service."""
    common = {
        **SECRETS,
        "OPENTOKEN_HOST": "127.0.0.1",
        "OPENTOKEN_BROKER_URL": broker_url,
        "OPENTOKEN_METRICS_PORT": "0",
    }
    return {
        "simulator": common | {"OPENTOKEN_SIMULATOR_LOG": str(folder / "served.jsonl")},
        "billing": common
        | {
            "OPENTOKEN_DATABASE_URL": database_url,
            "OPENTOKEN_SIGNING_KEY_FILE": str(folder / "signing.key"),
            "OPENTOKEN_CHECKPOINT_DIR": str(folder / "checkpoints"),
        },
        "worker-anthropic": common | {"ANTHROPIC_API_KEY": "simulated", "ANTHROPIC_BASE_URL": urls["simulator"]},
        "worker-google": common | {"GEMINI_API_KEY": "simulated", "GOOGLE_GEMINI_BASE_URL": urls["simulator"]},
        "edge": common
        | {
            "OPENTOKEN_BILLING_URL": billing_url,
            "OPENTOKEN_WORKER_URLS": json.dumps({name.removeprefix("worker-"): urls[name] for name in WORKERS}),
        },
    }


def _make_key(file: Path) -> None:
    command = [sys.executable, "-m", "services.billing.keys", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
