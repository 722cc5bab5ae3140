"""Settings of a worker process; the provider's own are in its folder."""

from shared.settings import BusSettings, InternalSettings, ProcessSettings, SpoolSettings


class WorkerSettings(ProcessSettings, BusSettings, SpoolSettings, InternalSettings):
    """What every worker takes."""
