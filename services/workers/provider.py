"""The contract between the host, which does all I/O, and a provider, which does none.

A provider is a folder of functions that make and read bytes. Several calls (a cache made first, a token fetched, counts
asked for after) are a generator that yields requests and receives replies, as in httpx's `auth_flow`: tested with plain
`send()`. Which tokens a provider counts inside which is settled in its folder: what leaves it are disjoint buckets.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

import orjson
from pydantic import SecretStr

from shared.catalog import Model
from shared.errors import ApiError, NoSupplier, UpstreamAuthFailed, UpstreamError, UpstreamTimeout
from shared.money import Tokens
from shared.openai import ChatRequest, EmbeddingsRequest
from shared.settings import Environment
from shared.sse import Event

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
ServiceTier = Literal["standard", "flex"]
Delta = Mapping[str, Any]
"""The `delta` of an OpenAI chunk: content, reasoning, refusal or tool_calls."""

RETRIES = 2  # of what a provider may recover from; more would only pile up on one that is overloaded
DISPROVED: Final = object()
"""What the memory holds in place of something that a provider said is not so."""


class ProviderSettings(Environment):
    """Where a provider is, and the keys for it, separated by commas; its folder gives the fields their variables."""

    api_key: SecretStr | None = None
    base_url: str

    @property
    def keys(self) -> list[str]:
        """The keys, in the order of trying."""
        given = self.api_key.get_secret_value().split(",") if self.api_key else []
        return [key.strip() for key in given if key.strip()]

    def keyed(self, name: str, address: str, header: str) -> "list[Supplier]":
        """One supplier for each key, which goes into `header`."""
        return [Supplier(f"{name}-{number}", address, {header: key}) for number, key in enumerate(self.keys, start=1)]


@dataclass(frozen=True, slots=True)
class Supplier:
    """One way to a provider: an address and the credentials for it. `headers` are secret.

    `flex`: it sells the cheaper, slower tier; `embeds`: it makes embeddings.
    """

    name: str
    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    flex: bool = False
    embeds: bool = True

    @property
    def secrets(self) -> list[str]:
        """What must never be shown to a client."""
        return list(self.headers.values())


class Memory(Protocol):
    """What a worker remembers between requests; anything may be forgotten at any time."""

    def get(self, key: str) -> Any:
        """What is remembered under a key; None where nothing is."""

    def put(self, key: str, value: Any, ttl_s: float) -> None:
        """Remember a value for `ttl_s` seconds at most."""

    def left_s(self, key: str) -> float:
        """For how many seconds more a key is remembered; 0 where it is not."""


R = TypeVar("R", ChatRequest, EmbeddingsRequest)


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One attempt at a request, as a provider sees it. `now_s` is Unix time."""

    request: R
    model: Model
    supplier: Supplier
    memory: Memory
    request_id: str
    workspace_id: str
    now_s: int

    @property
    def service_tier(self) -> ServiceTier:
        """The tier that this supplier gives to this request."""
        wants_flex = isinstance(self.request, ChatRequest) and self.request.wanted_tier == "flex"
        return "flex" if wants_flex and self.supplier.flex else "standard"


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One HTTP call to make. `headers` hold the supplier's credentials.

    `assumes` says under which keys the memory holds what this call relies upon; `writes_cache`: the prefix that it
    reads from a cache was written there for it.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes
    method: str = "POST"
    assumes: Mapping[str, str] = field(default_factory=dict)
    writes_cache: bool = False


@dataclass(frozen=True, slots=True)
class UpstreamReply:
    """What came back, whole. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Failed(Exception):
    """A call that brought no answer, as the provider's folder reads it.

    `error` is what the client is told before the first byte, `words` what it is told inside a stream; `retries` says
    how often the same call may be made again; `disproves` names the assumption of the call that turned out wrong.
    """

    def __init__(
        self, error: ApiError, words: str | None = None, *, retries: int = 0, disproves: str | None = None
    ) -> None:
        super().__init__(words or error.message)
        self.error, self.words = error, words or error.message
        self.retries, self.disproves = retries, disproves


@dataclass(frozen=True, slots=True)
class Finish:
    """Why the model stopped: OpenAI's word, and the provider's own."""

    reason: FinishReason
    native: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What was counted. `raw` is the provider's own usage object; `estimated` marks counts that it did not give."""

    tokens: Tokens
    raw: dict[str, Any] | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole chat answer: the assistant's message as OpenAI writes it, why it ended, and what it used."""

    message: dict[str, Any]
    finish: Finish
    usage: Usage
    upstream_id: str | None


@dataclass(frozen=True, slots=True)
class Vectors:
    """Embeddings in the order of the inputs."""

    vectors: list[list[float]]
    usage: Usage
    upstream_id: str | None


class ChatStream(Protocol):
    """Reads one streamed answer, event by event. Raises Failed where the provider reports a failure in-band."""

    finish: Finish | None
    """None until the provider said that it is done; an end before that is a broken stream."""
    upstream_id: str | None
    """The provider's own id of the request, as far as it told."""

    def feed(self, event: Event) -> list[Delta]:
        """The deltas that this event adds."""

    @property
    def usage(self) -> Usage:
        """What is known by now; the last word once the stream has ended."""


Plan = Generator[UpstreamRequest, UpstreamReply, UpstreamRequest]
EmbeddingsPlan = Generator[UpstreamRequest, UpstreamReply, Vectors]


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider: pure callables, assembled in its folder's `__init__`."""

    name: str
    settings: type[ProviderSettings]
    suppliers: Callable[[Any], list[Supplier]]
    """The ways to it, in the order of trying, from its settings. Raises ValueError for settings that cannot work."""
    plan: Callable[[Call[ChatRequest]], Plan]
    """Yields the calls to make first, returns the one that answers. Raises ApiError for what it cannot translate."""
    answer: Callable[[ChatRequest, UpstreamRequest, UpstreamReply], Answer]
    """Reads a whole answer to a call; raises Failed where it holds none."""
    stream: Callable[[ChatRequest, UpstreamRequest, Mapping[str, str]], ChatStream]
    """Begins to read a streamed answer to a call; its headers are given."""
    failure: Callable[[Supplier, UpstreamReply], Failed]
    """Reads a reply whose status is not 2xx."""
    on_disconnect: Literal["cut", "drain"]
    """When our client leaves: cut the call, where that stops the provider's meter; else read on for the counts."""
    embed: Callable[[Call[EmbeddingsRequest]], EmbeddingsPlan] | None = None
    """Makes embeddings, where the provider has them: yields its calls, returns the vectors."""


def json_object(data: str | bytes, or_else: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object from a provider, bare or as the first of an array; for anything else `or_else`, or Failed."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = None
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        return value
    if or_else is not None:
        return or_else
    raise Failed(NoSupplier(), "the provider sent something that is not a JSON object", retries=1)


def failed(status: int, words: str | None, headers: Mapping[str, str] | None = None) -> Failed:
    """What an upstream status means, where the provider's folder knows nothing more special about it.

    Refusals keep their status and words; our own credentials, a model we name wrongly and an unpaid bill are never
    shown as the client's fault; what the provider may recover from is retried.
    """
    if status in {401, 403}:
        return Failed(UpstreamAuthFailed(), words)
    if status in {402, 404}:
        return Failed(NoSupplier(), words)
    if 400 <= status < 500:
        return Failed(UpstreamError.refused(status, words or f"the provider answered {status}", headers))
    if status == 504:
        return Failed(UpstreamTimeout(), words)
    return Failed(NoSupplier(), words, retries=RETRIES)
