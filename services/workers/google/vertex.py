"""Vertex AI: the same models at another address, with a service account instead of a key.

Sources: docs.cloud.google.com, "Generative AI on Vertex AI REST API" and "Flex PayGo". Flex is sold by the global
endpoint alone, embeddings by regional ones alone.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr

from services.workers.google import wire
from services.workers.grants import ServiceAccount, service_account, token_in, token_request
from services.workers.provider import (
    DISPROVED,
    RETRIES,
    Call,
    Failed,
    ProviderSettings,
    R,
    Supplier,
    UpstreamReply,
    UpstreamRequest,
    json_object,
)
from shared.errors import VertexAuthFailed

GLOBAL = "global"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TOKEN_MARGIN_S = 300  # a token is renewed this long before its end, so that none ends on the way
JSON = {"content-type": "application/json"}
FLEX_HEADERS = {"X-Vertex-AI-LLM-Request-Type": "shared", "X-Vertex-AI-LLM-Shared-Request-Type": "flex"}


class Settings(ProviderSettings):
    """Where Google is, as the Gemini API and as Vertex AI, and the credentials for either."""

    api_key: SecretStr | None = Field(default=None, validation_alias="GEMINI_API_KEY")
    base_url: str = Field(
        default="https://generativelanguage.googleapis.com", validation_alias="GOOGLE_GEMINI_BASE_URL"
    )
    credentials: Path | None = Field(default=None, validation_alias="GOOGLE_APPLICATION_CREDENTIALS")
    project: str | None = Field(default=None, validation_alias="GOOGLE_CLOUD_PROJECT")
    location: str = Field(default=GLOBAL, validation_alias="GOOGLE_CLOUD_LOCATION")
    vertex_base_url: str | None = Field(default=None, validation_alias="OPENTOKEN_VERTEX_BASE_URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexSupplier(Supplier):
    """A project at a location of Vertex AI; `base_url` ends with both."""

    project: str
    location: str
    account: ServiceAccount

    @property
    def secrets(self) -> list[str]:
        """What must never be shown to a client."""
        return [self.account.email, self.project]


def suppliers(settings: Settings) -> list[Supplier]:
    """The Gemini API with each key, then Vertex AI at each location. Raises ValueError for an unfit key file."""
    gemini = settings.keyed("gemini", f"{settings.base_url.rstrip('/')}/v1beta", "x-goog-api-key")
    if settings.credentials is None:
        return gemini
    try:
        account = service_account(settings.credentials)
    except ValueError as error:
        raise ValueError(f"GOOGLE_APPLICATION_CREDENTIALS: {error}") from None
    if not (project := settings.project or account.project):
        raise ValueError("GOOGLE_CLOUD_PROJECT: no project is set, and the key file names none")
    locations = [location.strip() for location in settings.location.split(",")]
    return [*gemini, *(_at(location, project, settings, account) for location in locations)]


def _at(location: str, project: str, settings: Settings, account: ServiceAccount) -> VertexSupplier:
    prefix = "" if location == GLOBAL else f"{location}-"
    host = (settings.vertex_base_url or f"https://{prefix}aiplatform.googleapis.com").rstrip("/")
    return VertexSupplier(
        name=f"vertex-{location}",
        base_url=f"{host}/v1/projects/{project}/locations/{location}",
        headers={},
        flex=location == GLOBAL,
        embeds=location != GLOBAL,
        project=project,
        location=location,
        account=account,
    )


def model_name(supplier: Supplier, upstream_model: str) -> str:
    """A model's resource name."""
    if isinstance(supplier, VertexSupplier):
        place = f"projects/{supplier.project}/locations/{supplier.location}"
        return f"{place}/publishers/google/models/{upstream_model}"
    return f"models/{upstream_model}"


def model_url(supplier: Supplier, upstream_model: str) -> str:
    """A model's address, to which `:method` is added."""
    publisher = "/publishers/google" if isinstance(supplier, VertexSupplier) else ""
    return f"{supplier.base_url}{publisher}/models/{upstream_model}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The headers that let a call in, and the assumption that they still do."""

    headers: dict[str, str] = field(repr=False)
    assumes: dict[str, str] = field(default_factory=dict)


def authorised(call: Call[R]) -> Generator[UpstreamRequest, UpstreamReply, Credentials]:
    """The credentials of the call's supplier; an access token is fetched where none is remembered. Raises Failed."""
    supplier = call.supplier
    if not isinstance(supplier, VertexSupplier):
        return Credentials({**supplier.headers, **JSON})
    key = f"token:{supplier.account.email}"
    token = call.memory.get(key)
    if token is None or token is DISPROVED:
        reply = yield token_request(supplier.account, SCOPE, call.now_s)
        if (given := token_in(reply)) is None:
            words, retries = f"the token endpoint answered {reply.status}", RETRIES if reply.status >= 500 else 0
            raise Failed(VertexAuthFailed(), words, retries=retries)
        token, lifetime_s = given
        call.memory.put(key, token, lifetime_s - TOKEN_MARGIN_S)
    flex = FLEX_HEADERS if call.service_tier == "flex" else {}
    return Credentials({"authorization": f"Bearer {token}", **JSON, **flex}, {"token": key})


def read(call: Call[R], credentials: Credentials, reply: UpstreamReply) -> dict[str, Any]:
    """The body of a reply on the way to an answer. Raises Failed; a token that is refused is forgotten."""
    if reply.status == 200:
        return json_object(reply.body)
    failed = failure(call.supplier, reply)
    if key := credentials.assumes.get(failed.disproves or ""):
        call.memory.put(key, DISPROVED, 0)
    raise failed


def failure(supplier: Supplier, reply: UpstreamReply) -> Failed:
    """A reply whose status is not 2xx; a token that is refused is disproved, and fetched anew once."""
    failed = wire.failure(reply)
    if isinstance(supplier, VertexSupplier) and reply.status in {401, 403} and failed.disproves is None:
        return Failed(VertexAuthFailed(), failed.words, disproves="token" if reply.status == 401 else None)
    return failed
