"""One run: processes of the real services around a simulated network, broker, provider and disks; clients; faults.

After the faults everything heals, and time passes until nothing is under way any more; then the oracle judges.
"""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from services.billing.app import build_app as build_billing
from services.billing.settings import BillingSettings
from services.edge.app import build_app as build_edge
from services.workers import anthropic
from services.workers.host import HOST
from services.workers.host import build_app as build_worker
from services.workers.provider import Supplier
from shared import catalog
from shared.bus.rabbit import RabbitBus
from shared.http import listening
from shared.spool import Spool
from tests.simulation.broker import Broker
from tests.simulation.client import Seen, ask
from tests.simulation.loop import Loop, Process
from tests.simulation.network import Network
from tests.simulation.provider import ADDRESS, Provider

CATALOG = catalog.load()
KEY = "sk-optk-Simulation1-" + "k" * 43
TOKEN = "internal-token-of-tests"
SUPPLIER = Supplier("simulated", f"http://{ADDRESS}", {"x-api-key": "key"})
SETTINGS = BillingSettings(
    database_url=SecretStr("sqlite:///simulated"),
    internal_token=SecretStr(TOKEN),
    admin_token=SecretStr(TOKEN),
    auditor_token=SecretStr(TOKEN),
)
ASKING_S = 20.0  # requests and faults begin within this time
RESTART_S = 5.0  # a dead process is back within this time
REST_S = 900.0  # to come to rest in: longer than any deadline, heartbeat and back-off together
SPOOLS_BYTES = (2_000, 1_000_000, 1_000_000)  # the first is full after two events


@dataclass
class Conditions:
    """What is wrong for now, and what has gone wrong at any time."""

    disk_full: bool = False
    database_away: bool = False
    crashes: bool = True
    had: set[str] = field(default_factory=set)


class World:
    """A run by its seed. `run` returns when all is at rest."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder
        self.rng = rng = random.Random(seed)
        self.loop = Loop(rng)
        self.network, self.provider = Network(self.loop), Provider(self.loop)
        self.broker = Broker(self.loop, duplicates=rng.choice((0.0, 0.1)))
        self.loop.services |= {"network": self.network, "broker": self.broker, "connectors": []}
        self.conditions = Conditions()
        self.running: dict[str, Process] = {}
        self.apps: dict[str, web.Application] = {}
        self.spools: dict[str, Spool] = {}
        self.opened: list[Spool] = []
        self.clients: list[Seen] = []
        self._spool_bytes = rng.choice(SPOOLS_BYTES)
        self.spool_is_large = self._spool_bytes > min(SPOOLS_BYTES)
        self._incarnations = 0

    def run(self, faults: Callable[["World"], Awaitable[None]]) -> None:
        """Raises TimeoutError where it does not come to rest."""
        self.loop.set_exception_handler(lambda _, context: self.loop.note("callback_failed", why=context["message"]))
        self.loop.run_until_complete(self._run(faults))

    def close(self) -> None:
        """Let go of what crashed processes left open."""
        self.loop.close()
        for connector in self.loop.services["connectors"]:
            connector._closed = True
        for spool in self.opened:
            spool._database.close()

    async def _run(self, faults: Callable[["World"], Awaitable[None]]) -> None:
        rng = self.rng
        self.network.listen(self.provider.connection, ADDRESS)
        for kind, most in (("billing", 2), ("worker", 2), ("edge", 2)):
            self.network.names[kind] = [f"{kind}-{number}" for number in range(rng.randint(1, most))]
            for name in self.network.names[kind]:
                self.start(name)
        self.network.names["worker-anthropic"] = self.network.names["worker"]
        asking = [self.loop.create_task(self._client(number)) for number in range(rng.randint(2, 6))]
        await faults(self)
        self.heal()
        await asyncio.gather(*asking)
        async with asyncio.timeout(REST_S):
            while not self._at_rest():
                await asyncio.sleep(0.5)

    async def _client(self, number: int) -> None:
        rng = self.rng
        seen = Seen(number, stream=rng.random() < 0.5, patience_s=rng.choice((2.0, 60.0, 60.0, 60.0)))
        self.clients.append(seen)
        await asyncio.sleep(0.3 + rng.random() * ASKING_S)
        await ask(self.loop, seen, rng.choice(self.network.names["edge"]), KEY)

    def _at_rest(self) -> bool:
        busy = any(app[HOST].running for app in self.apps.values() if HOST in app)
        everybody = {name for kind in ("billing", "worker", "edge") for name in self.network.names[kind]}
        waiting = sum(spool.size_bytes for spool in self.spools.values())
        return self.running.keys() == everybody and not busy and not waiting and not self.broker.depth

    def start(self, name: str) -> None:
        """Start a process; it starts anew whenever it has ended."""
        process = Process(name)
        process.crash_at = self.rng.randint(1, 1500) if self.conditions.crashes and self.rng.random() < 0.3 else None
        process.before_work, process.after_work = self._before_work, self._after_work
        process.at_crash.append(partial(self._crashed, process))
        self.running[name] = process
        main = {"edge": self._edge, "worker": self._worker, "billing": self._billing}[name.partition("-")[0]]
        self.loop.spawn(process, self._life(process, main))

    async def _life(self, process: Process, main: Callable[[Process], Awaitable[None]]) -> None:
        await main(process)
        self.loop.ended(process)
        self._again(process)

    def _crashed(self, process: Process) -> None:
        self.conditions.had.add("crash")
        self.network.crashed(process)
        if (spool := self.spools.get(process.name)) is not None:
            self._save_disk(process, spool)
        self._again(process)

    def _again(self, process: Process) -> None:
        self.apps.pop(process.name, None)
        self.spools.pop(process.name, None)
        del self.running[process.name]
        delay_s = 0.1 + self.rng.random() * RESTART_S
        self.loop.call_later(delay_s, self.start, process.name, context=self.loop.outside.context)

    def heal(self) -> None:
        """End all that is wrong."""
        self.conditions.disk_full = self.conditions.database_away = self.conditions.crashes = False
        self.broker.up, self.broker.refusing, self.broker.blocked = True, False, False
        for process in self.running.values():
            process.crash_at = None

    async def _edge(self, process: Process) -> None:
        urls = dict.fromkeys(CATALOG.providers, "http://worker-anthropic:8080")
        bus = partial(RabbitBus, "amqp://broker/", shards=1, name=process.name)
        app = build_edge(CATALOG, TOKEN, urls, "http://billing:8080", bus, self._spool(process))
        await self._serve(process, app)

    async def _worker(self, process: Process) -> None:
        bus = partial(RabbitBus, "amqp://broker/", shards=1, name=process.name)
        app = build_worker(anthropic.PROVIDER, [SUPPLIER], CATALOG, TOKEN, bus, self._spool(process))
        await self._serve(process, app)

    async def _billing(self, process: Process) -> None:
        bus = RabbitBus("amqp://broker/", shards=1, name=process.name)
        try:
            await self._serve(process, build_billing(SETTINGS, bus))
        except OperationalError:
            self.loop.note("exited", which=process.name)
        finally:
            await bus.close()

    async def _serve(self, process: Process, app: web.Application) -> None:
        self.apps[process.name] = app
        async with listening(app, process.name, 8080):
            await process.stop.wait()

    def _spool(self, process: Process) -> Spool:
        folder = self.folder / process.name / "now"
        folder.mkdir(parents=True, exist_ok=True)
        spool = self.spools[process.name] = Spool(folder, self._spool_bytes)
        return spool

    def _save_disk(self, process: Process, spool: Spool) -> None:
        """Keep what a crashed process had written, for the next one: its own files stay open in the dead one's hands."""
        self._incarnations += 1
        left = spool._path.parent.rename(self.folder / process.name / f"left-{self._incarnations}")
        now = self.folder / process.name / "now"
        now.mkdir()
        for file in sorted(left.iterdir()):
            if not file.name.endswith("-shm"):
                shutil.copy(file, now)
        self._tear(process, now / "spool.db-wal")

    def _tear(self, process: Process, log: Path) -> None:
        """Take off some of what was being written when it crashed."""

    def _before_work(self, thread: str) -> None:
        if self.conditions.disk_full and thread == "spool":
            raise sqlite3.OperationalError("database or disk is full")
        if self.conditions.database_away and thread.startswith("ledger"):
            raise OperationalError("the database is away", None, ConnectionError())

    def _after_work(self, thread: str) -> None:
        """A commit whose outcome the writer never learns."""
        if thread == "ledger-writer" and self.conditions.crashes and self.rng.random() < 0.02:
            raise OperationalError("the connection was lost during the commit", None, ConnectionError())
