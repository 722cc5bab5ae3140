"""`python -m services.edge`: the edge as a process of its own."""

from functools import partial

from aiohttp import web

from services.edge.app import build_app
from services.edge.settings import EdgeSettings
from shared import catalog, http, log
from shared.bus.connect import connect, require_topology
from shared.settings import load
from shared.spool import Spool


def main() -> None:
    """Run the edge until told to stop."""
    settings = load(EdgeSettings)
    log.configure(settings.log_format, settings.log_level)
    models = catalog.load(settings.catalog)
    app = build_app(
        models,
        settings.internal_token.get_secret_value(),
        settings.workers_of(models.providers),
        settings.billing_url,
        partial(connect, settings.broker_url, shards=settings.ledger_shards, name="edge"),
        Spool(settings.spool_dir or settings.data_dir / "spool", settings.spool_max_bytes),
    )
    http.run(_serve(app, settings))


async def _serve(app: web.Application, settings: EdgeSettings) -> None:
    await require_topology(settings.broker_url, shards=settings.ledger_shards, name="edge")
    await http.serve(app, settings.host, settings.port, settings.metrics_port)


if __name__ == "__main__":
    main()
