"""`python -m services.simulator`: the simulator as a process of its own."""

from services.simulator.app import SimulatorSettings, build_app
from shared import http, log
from shared.settings import load


def main() -> None:
    """Serve until told to stop."""
    settings = load(SimulatorSettings)
    log.configure(settings.log_format, settings.log_level)
    http.run(_serve(settings))


async def _serve(settings: SimulatorSettings) -> None:
    await http.serve(build_app(settings), settings.host, settings.port, None)


if __name__ == "__main__":
    main()
