"""A worker as a process of its own."""

from functools import partial

from services.workers.host import build_app
from services.workers.provider import Provider
from services.workers.settings import WorkerSettings
from shared import catalog, http, log
from shared.bus.connect import connect
from shared.settings import load
from shared.spool import Spool


def main(provider: Provider) -> None:
    """Run the provider's worker until told to stop."""
    settings, own = load(WorkerSettings), load(provider.settings)
    log.configure(settings.log_format, settings.log_level)
    app = build_app(
        provider,
        provider.suppliers(own),
        catalog.load(settings.catalog),
        settings.internal_token.get_secret_value(),
        partial(connect, settings.broker_url, shards=settings.ledger_shards, name=f"worker-{provider.name}"),
        Spool(settings.spool_dir or settings.data_dir / "spool", settings.spool_max_bytes),
    )
    http.run(http.serve(app, settings.host, settings.port, settings.metrics_port))
