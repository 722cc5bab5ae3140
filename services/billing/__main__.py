"""`python -m services.billing`: the billing service on RabbitMQ and the database of OPENTOKEN_DATABASE_URL."""

import sys

from services.billing.app import build_app
from services.billing.checkpoint import NoteError
from services.billing.migrations import SchemaError
from services.billing.settings import Settings
from shared import http, log, settings
from shared.bus.connect import require_topology
from shared.bus.rabbit import RabbitBus

SWITCH_S = 0.0005  # the writer waits for the database often and briefly; a decoder would hold it up for 5 ms more


async def _serve(environment: Settings) -> None:
    await require_topology(environment.broker_url, shards=environment.ledger_shards, name="billing")
    bus = RabbitBus(environment.broker_url, shards=environment.ledger_shards, name="billing")
    try:
        await http.serve(build_app(environment, bus), environment.host, environment.port, environment.metrics_port)
    except (SchemaError, NoteError) as error:
        sys.exit(f"billing cannot start: {error}")
    finally:
        await bus.close()


def main() -> None:
    """Serve until SIGTERM."""
    environment = settings.load(Settings)
    log.configure(environment.log_format, environment.log_level)
    sys.setswitchinterval(SWITCH_S)
    http.run(_serve(environment))


if __name__ == "__main__":
    main()
