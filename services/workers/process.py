"""A worker as a process of its own."""

import sys
from functools import partial

from aiohttp import web

from services.workers.host import build_app
from services.workers.provider import Provider, Supplier
from services.workers.settings import WorkerSettings
from shared import catalog, http, log
from shared.bus.connect import connect, require_topology
from shared.settings import load
from shared.spool import Spool


def suppliers_of(provider: Provider) -> list[Supplier]:
    """The ways to a provider that the environment names; where that cannot work, say why and exit with 2."""
    try:
        return provider.suppliers(load(provider.settings))
    except ValueError as error:
        sys.stderr.write(f"OpenToken cannot start, because of its settings:\n  {error}\n")
        sys.exit(2)


def main(provider: Provider) -> None:
    """Run the provider's worker until told to stop."""
    settings, name = load(WorkerSettings), f"worker-{provider.name}"
    log.configure(settings.log_format, settings.log_level)
    app = build_app(
        provider,
        suppliers_of(provider),
        catalog.load(settings.catalog),
        settings.internal_token.get_secret_value(),
        partial(connect, settings.broker_url, shards=settings.ledger_shards, name=name),
        Spool(settings.spool_dir or settings.data_dir / "spool", settings.spool_max_bytes),
    )
    http.run(_serve(app, settings, name))


async def _serve(app: web.Application, settings: WorkerSettings, name: str) -> None:
    await require_topology(settings.broker_url, shards=settings.ledger_shards, name=name)
    await http.serve(app, settings.host, settings.port, settings.metrics_port)
