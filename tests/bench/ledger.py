"""`python -m tests.bench.ledger`: how fast billing books what waits in RabbitMQ, where its time goes, what proofs cost.

A backlog of packed messages is published first; then billing starts, and is measured from its first event to its last,
with all that it does in operation: it signs checkpoints and exports them.
With `--prove` the same books are verified, exported and replayed into SQLite. It needs Linux; see README.md.
"""

import argparse
import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from services.billing.accounts import Accounts, NewKey
from services.billing.database import connect, reading
from services.billing.keys import make_key
from services.billing.scan import sizes
from services.billing.stages import STAGES
from shared.bus.rabbit import RabbitBus
from shared.events import Encoded
from shared.ids import new_id
from tests import servers
from tests.bench import report
from tests.bench.processes import cpu_s, pin
from tests.e2e import stacks
from tests.e2e.stacks import AUDITOR, SECRETS, Service, until
from tests.servers import Server
from tests.servers.process import free_ports
from tests.unit.billing.events import usage

EVENTS = 600_000  # a minute's worth at the goal
GOAL_PER_S = 10_000
WORKSPACES = 20
UNCONFIRMED = 10_000  # events handed to the publisher at once: enough that every message is full
PLACEHOLDER = "00000000-0000-0000-0000-000000000000"
POLL_S = 1.0  # each look at the metrics costs billing some milliseconds
_RECORDED = re.compile(r'^opentoken_ledger_events_total\{result="recorded"\} (\S+)', re.MULTILINE)
_STAGE = re.compile(r'^opentoken_ledger_stage_seconds_total\{stage="(\w+)"\} (\S+)', re.MULTILINE)


def main() -> None:
    """Measure and print; one line goes to results.jsonl."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ledger", description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--prove", action="store_true", help="verify, export and replay what was booked, too")
    options = parser.parse_args()
    with servers.postgres_server() as postgres, servers.rabbitmq_server() as rabbitmq:
        _durable(postgres)
        with servers.database(postgres) as database_url, servers.vhost(rabbitmq) as broker_url:
            keys = _prepare(database_url)
            asyncio.run(_publish(broker_url, options.events, keys))
            with TemporaryDirectory() as folder, _billing(database_url, broker_url, folder) as (billing, metrics_url):
                figures = _booked(billing, metrics_url, options.events, {"broker": rabbitmq, "database": postgres})
                figures |= _apart(Path(folder) / "checkpoints/0")
                if options.prove:
                    figures |= _proved(billing, database_url, Path(folder))
    sys.stdout.write("".join(f"{name:<40}{figure:>14,.3f}\n" for name, figure in figures.items()))
    report.keep({"OpenToken": figures}, "python -m tests.bench.ledger", sys.argv[1:])


def _durable(postgres: Server) -> None:
    """A server of the tests does not wait for its disk; this one is to."""
    with psycopg.connect(postgres.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = on")
        connection.execute("SELECT pg_reload_conf()")


def _prepare(database_url: str) -> list[str]:
    """The workspaces, each with a key; the keys' ids."""
    stacks.migrate(database_url)
    engine = connect(database_url)
    accounts, keys = Accounts(engine), list[str]()
    for name in map(str, range(WORKSPACES)):
        accounts.create_workspace(name, name)
        keys.append(str(accounts.create_key(NewKey(name, "bench"))[0]["id"]))
    engine.dispose()
    return keys


async def _publish(broker_url: str, events: int, keys: Sequence[str]) -> None:
    """Through the publisher that workers use, so packed as theirs. The queues are made by whoever comes first."""
    templates = [
        Encoded.of(
            usage(str(name), request_id=PLACEHOLDER, key_id=key, lease_id=f"lease-{name}"), "bench"
        ).body.decode()
        for name, key in enumerate(keys)
    ]
    bus = RabbitBus(broker_url, shards=1, name="bench")
    while not bus.connected:  # noqa: ASYNC110 - the bus tells nobody when it is
        await asyncio.sleep(POLL_S)
    for first in range(0, events, UNCONFIRMED):
        numbers = range(first, min(first + UNCONFIRMED, events))
        bodies = [(n % WORKSPACES, templates[n % WORKSPACES].replace(PLACEHOLDER, new_id())) for n in numbers]
        await asyncio.gather(*(bus.publish(Encoded(str(name), body.encode())) for name, body in bodies))
    await bus.close()


@contextlib.contextmanager
def _billing(database_url: str, broker_url: str, folder: str) -> Iterator[tuple[Service, str]]:
    """Billing as a process of its own, not yet started, and where its metrics are. What it signs goes to the folder."""
    make_key(Path(folder) / "signing.key")
    port, metrics_port = free_ports(2)
    env = {
        **SECRETS,
        "OPENTOKEN_HOST": "127.0.0.1",
        "OPENTOKEN_PORT": str(port),
        "OPENTOKEN_METRICS_PORT": str(metrics_port),
        "OPENTOKEN_DATABASE_URL": database_url,
        "OPENTOKEN_BROKER_URL": broker_url,
        "OPENTOKEN_SIGNING_KEY_FILE": f"{folder}/signing.key",
        "OPENTOKEN_CHECKPOINT_DIR": f"{folder}/checkpoints",
        "OPENTOKEN_LOG_LEVEL": "warning",
    }
    with contextlib.closing(Service("billing", "services.billing", env, f"http://127.0.0.1:{port}")) as service:
        yield service, f"http://127.0.0.1:{metrics_port}/metrics"


def _booked(billing: Service, metrics_url: str, events: int, others: dict[str, Server]) -> dict[str, float]:
    """From the first batch on the books to the last event, billing on one core and the servers on the other."""
    billing.start()
    groups = {"billing": billing.process.pid, **{name: server.pid for name, server in others.items()}}
    cores = sorted(os.sched_getaffinity(0))
    for name, pid in groups.items():
        pin([pid], cores[-1] if name == "billing" else cores[0])

    def recorded() -> int:
        found = _RECORDED.search(_text(metrics_url))
        return int(float(found[1])) if found else 0

    first = until(recorded, "the first batch is booked")
    before, used, stages = time.perf_counter(), {n: cpu_s([pid]) for n, pid in groups.items()}, _stages(metrics_url)
    while (count := recorded()) < events:
        assert billing.process.failure() is None, billing.log()
        time.sleep(POLL_S)
    took_s, measured = time.perf_counter() - before, count - first
    spent = {name: seconds - stages.get(name, 0) for name, seconds in _stages(metrics_url).items()}
    return {
        "events": count,
        "seconds": took_s,
        "events_per_s": measured / took_s,
        **{f"{name}_cpu_us_per_event": (cpu_s([pid]) - used[name]) / measured * 1e6 for name, pid in groups.items()},
        **{f"share_of_{name}": spent.get(name, 0) / took_s for name in STAGES},
    }


def _apart(exported: Path) -> dict[str, float]:
    """The exported checkpoints, and how far from one to the next at most, from an empty ledger to the last of them."""
    files = sorted(path for path in exported.iterdir() if path.name.isdigit())
    sizes, times_s = [int(path.name) for path in files], [path.stat().st_mtime for path in files]
    return {
        "checkpoints": len(files),
        "checkpoints_apart_max_leaves": max(after - before for before, after in pairwise([0, *sizes])),
        "checkpoints_apart_max_s": max((after - before for before, after in pairwise(times_s)), default=0),
    }


def _stages(metrics_url: str) -> dict[str, float]:
    return {name: float(seconds) for name, seconds in _STAGE.findall(_text(metrics_url))}


def _text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read(), "utf-8")


def _proved(billing: Service, database_url: str, signed: Path) -> dict[str, float]:
    """Rates in rows a second, and the most memory that each took."""
    engine = connect(database_url)
    with reading(engine) as connection:
        rows = sum(sizes(connection).values())
    engine.dispose()
    idle_mib = _peak_mib(billing.process.pid)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "export.jsonl"
        exported = _timed(lambda: _export(billing.url, file))
        export_mib = _peak_mib(billing.process.pid)
        outside = ("--checkpoints", str(signed / "checkpoints"), "--key", str(signed / "signing.key.pub"))
        verified, verify_mib = _command("verify", "--database", database_url, *outside)
        replayed, replay_mib = _command("replay", str(file), "--into", f"sqlite:///{folder}/copy.db")
    return {
        "rows": rows,
        "verify_rows_per_s": rows / verified,
        "verify_peak_mib": verify_mib,
        "export_rows_per_s": rows / exported,
        "export_billing_peak_mib_before": idle_mib,
        "export_billing_peak_mib": export_mib,
        "replay_rows_per_s": rows / replayed,
        "replay_peak_mib": replay_mib,
    }


def _export(url: str, file: Path) -> None:
    request = urllib.request.Request(f"{url}/v1/export.jsonl", headers={"Authorization": f"Bearer {AUDITOR}"})
    with urllib.request.urlopen(request, timeout=60) as answer, file.open("wb") as lines:
        while chunk := answer.read(1 << 20):
            lines.write(chunk)


def _command(*arguments: str) -> tuple[float, float]:
    """Seconds, and the peak of memory in MiB, of `opentoken …`; it must succeed."""
    process = subprocess.Popen([sys.executable, "-m", "services.cli", *arguments], cwd=report.ROOT)
    before = time.perf_counter()
    _, status, usage_ = os.wait4(process.pid, 0)
    assert status == 0, f"opentoken {arguments[0]} ended with {status}"
    process.returncode = 0
    return time.perf_counter() - before, usage_.ru_maxrss / 1024


def _timed(work: Callable[[], Any]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def _peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
