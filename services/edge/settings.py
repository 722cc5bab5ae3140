"""Settings of the edge."""

from typing import Annotated

from pydantic import Field

from shared.settings import BusSettings, InternalSettings, ProcessSettings, SpoolSettings


class EdgeSettings(ProcessSettings, BusSettings, SpoolSettings, InternalSettings):
    """What the edge takes. `{provider}` in the workers' URL stands for the provider's name."""

    worker_url: Annotated[str, Field(pattern=r"^http://.*\{provider\}")] = "http://worker-{provider}:8080"
    billing_url: Annotated[str, Field(pattern=r"^http://")] = "http://billing:8080"
