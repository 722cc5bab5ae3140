"""The embedded stack: the composition roots of all services, wired together over loopback."""

import contextlib
import importlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from services.billing import migrations
from services.billing.app import build_app as build_billing
from services.billing.database import connect as open_database
from services.billing.keys import make_key
from services.billing.settings import BillingSettings
from services.edge.app import build_app as build_edge
from services.local.settings import LocalSettings
from services.simulator.app import build_app as build_simulator
from services.workers.host import build_app as build_worker
from services.workers.process import suppliers_of
from services.workers.provider import Provider, Supplier
from shared import metrics
from shared.bus.connect import LOCAL, connect
from shared.catalog import Catalog
from shared.http import listening
from shared.spool import Spool

LOOPBACK = "127.0.0.1"
# Whoever presses Ctrl-C waits at the terminal: a longer answer is cut, and settled as one whose client left. Nobody
# lingers: no load balancer is in front, and the edge, which is the only client of the workers, ends before them.
GRACE_S = 4.0


@dataclass(frozen=True, slots=True)
class Running:
    """Where the stack listens, and which providers are simulated."""

    edge_port: int
    billing_port: int
    simulated: list[str]


@contextlib.asynccontextmanager
async def running(settings: LocalSettings, secrets: dict[str, str], models: Catalog) -> AsyncIterator[Running]:
    """Everything, for the length of the block. What depends on another starts after it and stops before it."""
    _migrate(settings)
    internal, simulated = secrets["internal_token"], list[str]()
    listen = partial(listening, grace_s=GRACE_S)
    async with contextlib.AsyncExitStack() as stack:
        bus = connect(settings.broker_url, shards=settings.ledger_shards, name="local")
        stack.push_async_callback(bus.close)
        billing = build_billing(_billing_settings(settings, secrets), bus)
        billing_port = await stack.enter_async_context(listen(billing, settings.host, settings.billing_port))
        simulator_port = await stack.enter_async_context(listen(build_simulator(), LOOPBACK, 0))
        worker_urls: dict[str, str] = {}
        for name in models.providers:
            provider: Provider = importlib.import_module(f"services.workers.{name}").PROVIDER
            suppliers = suppliers_of(provider)
            if not suppliers:
                simulated.append(name)
                suppliers = _simulated(provider, simulator_port)
            worker = build_worker(provider, suppliers, models, internal, lambda: bus, _spool(settings, name))
            port = await stack.enter_async_context(listen(worker, LOOPBACK, 0))
            worker_urls[name] = f"http://{LOOPBACK}:{port}"
        to_billing = f"http://{LOOPBACK}:{billing_port}"
        edge = build_edge(models, internal, worker_urls, to_billing, lambda: bus, _spool(settings, "edge"))
        edge_port = await stack.enter_async_context(listen(edge, settings.host, settings.edge_port))
        if settings.metrics_port is not None:
            await stack.enter_async_context(listen(metrics.build_app(), settings.host, settings.metrics_port))
        yield Running(edge_port, billing_port, simulated)


def _simulated(provider: Provider, port: int) -> list[Supplier]:
    settings = provider.settings(api_key=SecretStr("simulated"), base_url=f"http://{LOOPBACK}:{port}")
    return provider.suppliers(settings)


def _migrate(settings: LocalSettings) -> None:
    """A step of its own in a deployment; here the first one of every start."""
    engine = open_database(settings.ledger_url.get_secret_value())
    migrations.upgrade(engine)
    engine.dispose()


def _billing_settings(settings: LocalSettings, secrets: dict[str, str]) -> BillingSettings:
    return BillingSettings(
        database_url=settings.ledger_url,
        internal_token=SecretStr(secrets["internal_token"]),
        admin_token=SecretStr(secrets["admin_token"]),
        auditor_token=SecretStr(secrets["auditor_token"]),
        bootstrap_key=SecretStr(secrets["bootstrap_key"]),
        ledger_shards=settings.ledger_shards,
        signing_key_file=_signing_key(settings),
        checkpoint_dir=settings.checkpoint_dir or settings.data_dir / "checkpoints",
    )


def _signing_key(settings: LocalSettings) -> Path:
    """The file of the key that signs checkpoints: as set, else in the data dir, made at the first start."""
    file = settings.signing_key_file or settings.data_dir / "signing.key"
    if not file.exists():
        make_key(file)
    return file


def _spool(settings: LocalSettings, name: str) -> Spool | None:
    """None on the local bus: an event is committed to the ledger itself before `publish` returns."""
    if settings.broker_url == LOCAL:
        return None
    return Spool((settings.spool_dir or settings.data_dir / "spool") / name, settings.spool_max_bytes)
