"""Settings of the edge."""

from typing import Annotated

from pydantic import Field, Json
from pydantic_settings import NoDecode

from shared.settings import BusSettings, InternalSettings, ProcessSettings, SpoolSettings


class EdgeSettings(ProcessSettings, BusSettings, SpoolSettings, InternalSettings):
    """What the edge takes. `{provider}` in the workers' URL stands for the provider's name.

    `worker_urls` is a JSON object of provider and URL, for workers that the pattern does not fit.
    """

    worker_url: Annotated[str, Field(pattern=r"^http://.*\{provider\}")] = "http://worker-{provider}:8080"
    worker_urls: Annotated[Json[dict[str, Annotated[str, Field(pattern=r"^http://")]]], NoDecode] = Field(
        default_factory=dict
    )
    billing_url: Annotated[str, Field(pattern=r"^http://")] = "http://billing:8080"

    def workers_of(self, providers: list[str]) -> dict[str, str]:
        """The workers' URL for each provider."""
        return {name: self.worker_urls.get(name, self.worker_url.replace("{provider}", name)) for name in providers}
