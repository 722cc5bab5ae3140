"""Settings of the edge."""

from typing import Annotated

import orjson
from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from shared.settings import BusSettings, InternalSettings, ProcessSettings, SpoolSettings

Url = Annotated[str, Field(pattern=r"^http://")]
Urls = Annotated[list[Url], Field(min_length=1)]


def _json(text: object) -> object:
    """What a variable's JSON text says; ValueError, told with the variable's name, where it is none."""
    return orjson.loads(text) if isinstance(text, str) else text


class EdgeSettings(ProcessSettings, BusSettings, SpoolSettings, InternalSettings):
    """What the edge takes. `{provider}` in the workers' URL stands for the provider's name.

    `worker_urls` is a JSON object of provider and URL, or a list of URLs, for workers that the pattern does not fit.
    """

    worker_url: Annotated[str, Field(pattern=r"^http://.*\{provider\}")] = "http://worker-{provider}:8080"
    worker_urls: Annotated[dict[str, Url | Urls], NoDecode, BeforeValidator(_json)] = Field(default_factory=dict)
    billing_url: Url = "http://billing:8080"

    def workers_of(self, providers: list[str]) -> dict[str, str | list[str]]:
        """The workers' URL, or URLs, for each provider."""
        return {name: self.worker_urls.get(name, self.worker_url.replace("{provider}", name)) for name in providers}
