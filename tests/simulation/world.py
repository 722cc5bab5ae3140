"""One run: processes of the real services around a simulated network, broker, provider and disks; clients; faults.

After the faults everything heals, and time passes until nothing is under way any more; then the oracle judges.
"""

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

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
from shared.drain import LINGER_S
from shared.http import listening
from shared.spool import Spool
from tests.simulation.broker import Broker
from tests.simulation.client import Seen, ask
from tests.simulation.disks import SOON, Break, Conditions, Database, Disk
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
ASKING_S = 8.0  # requests and faults begin within this time
CRASHES = 0.4  # of the processes crash at one of their first callbacks …
STEPS = 400  # … of which a process runs about so many
RESTART_S = 5.0  # a dead process is back within this time
REST_S = 900.0  # to come to rest in: longer than any deadline, heartbeat and back-off together
POOR = 0.3  # of the runs: with credit for about one request
SPOOLS_BYTES = (2_000, 1_000_000, 1_000_000)  # the first is full after two events


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
        self.begins_s = [0.3 + rng.random() * ASKING_S for _ in range(rng.randint(1, 5))]
        self.poor = rng.random() < POOR
        self.edges = 0  # each life counts
        self._spool_bytes = rng.choice(SPOOLS_BYTES)
        self.spool_is_large = self._spool_bytes > min(SPOOLS_BYTES)

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
            for name in ("_database", "_lock"):
                if handle := getattr(spool, name, None):  # its process may have crashed before it was open
                    handle.close()

    async def _run(self, faults: Callable[["World"], Awaitable[None]]) -> None:
        rng = self.rng
        self.network.listen(self.provider.connection, ADDRESS)
        for kind, most in (("billing", 2), ("worker", 2), ("edge", 2)):
            self.network.names[kind] = [f"{kind}-{number}" for number in range(rng.randint(1, most))]
            for name in self.network.names[kind]:
                self.start(name)
        self.network.names["worker-anthropic"] = self.network.names["worker"]
        asking = [self.loop.create_task(self._client(number)) for number in range(len(self.begins_s))]
        await faults(self)
        self.heal()
        await asyncio.gather(*asking)
        async with asyncio.timeout(REST_S):
            while not self._at_rest():  # noqa: ASYNC110 - looking costs nothing here
                await asyncio.sleep(0.5)

    async def _client(self, number: int) -> None:
        rng = self.rng
        stream, patience_s = rng.random() < 0.5, rng.choice((1.5, 20.0, 20.0, 20.0))
        seen = Seen(number, rng.choice(self.network.names["edge"]), stream, patience_s)
        self.clients.append(seen)
        await asyncio.sleep(self.begins_s[number])
        await ask(self.loop, seen, KEY)

    def _at_rest(self) -> bool:
        busy = any(app[HOST].running for app in self.apps.values() if HOST in app)
        everybody = {name for kind in ("billing", "worker", "edge") for name in self.network.names[kind]}
        waiting = sum(spool.size_bytes for spool in self.spools.values())
        return self.running.keys() == everybody and not busy and not waiting and not self.broker.depth

    def start(self, name: str) -> None:
        """Start a process; it starts anew whenever it has ended."""
        process = Process(name)
        process.crash_at = self._crash_step()
        process.at_crash.append(partial(self._crashed, process))
        self.running[name] = process
        self.edges += name.startswith("edge")
        main = {"edge": self._edge, "worker": self._worker, "billing": self._billing}[name.partition("-")[0]]
        self.loop.spawn(process, self._life(process, main))

    def _crash_step(self) -> int | None:
        """Before which of its callbacks a process will crash, if any."""
        crashes = self.conditions.crashes and self.rng.random() < CRASHES
        return self.rng.randint(1, STEPS) if crashes else None

    async def _life(self, process: Process, main: Callable[[Process], Awaitable[None]]) -> None:
        try:
            await main(process)
        except (OperationalError, sqlite3.Error) as error:  # no database, no disk: it ends, and is started again
            self.loop.note("failed", error=type(error).__name__)
        self.loop.ended(process)
        self._again(process)

    def _crashed(self, process: Process) -> None:
        self.broke(process.name)
        self.network.crashed(process)
        self._again(process)

    def _again(self, process: Process) -> None:
        self.apps.pop(process.name, None)
        self.spools.pop(process.name, None)
        del self.running[process.name]
        delay_s = 0.1 + self.rng.random() * RESTART_S
        self.loop.call_later(delay_s, self.start, process.name, context=self.loop.outside.context)

    def broke(self, *names: str) -> None:
        """A process, or a connection of two, has broken just now."""
        self.conditions.breaks.append(Break(self.loop.now, frozenset(names)))

    def heal(self) -> None:
        """End all that is wrong."""
        self.conditions.disk_full = self.conditions.database_away = self.conditions.crashes = False
        self.broker.up, self.broker.refusing, self.broker.blocked = True, False, False
        for process in self.running.values():
            if process.crash_at is not None and process.crash_at > process.steps + SOON:  # else it has begun
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
        process.threads = Database(self.conditions, process, self.rng)
        bus = RabbitBus("amqp://broker/", shards=1, name=process.name)
        try:
            await self._serve(process, build_billing(SETTINGS, bus))
        finally:
            await bus.close()

    async def _serve(self, process: Process, app: web.Application) -> None:
        self.apps[process.name] = app
        async with listening(app, process.name, 8080, linger_s=LINGER_S):
            await process.stop.wait()

    def _spool(self, process: Process) -> Spool:
        disk = Disk(self.conditions, process, self.rng, self.folder / process.name)
        process.threads = disk
        process.at_crash.append(disk.crashed)
        spool = self.spools[process.name] = Spool(disk.folder, self._spool_bytes)
        self.opened.append(spool)
        return spool
