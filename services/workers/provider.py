"""The contract between the host, which does all I/O, and a provider, which does none.

A provider is a folder of functions that make and read bytes. Several calls (a cache made first, counts asked for
after) are a generator that yields requests and receives replies, as in httpx's `auth_flow`: tested with plain `send()`.
Which tokens a provider counts inside which is settled in its folder: what leaves it are disjoint buckets.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import SecretStr

from shared.catalog import Model
from shared.errors import ApiError, NoSupplier, UpstreamAuthFailed, UpstreamError, UpstreamTimeout
from shared.money import Tokens
from shared.openai import ChatRequest, EmbeddingsRequest
from shared.settings import Environment
from shared.sse import Event

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Delta = Mapping[str, Any]
"""The `delta` of an OpenAI chunk: content, reasoning or tool_calls."""


class ProviderSettings(Environment):
    """Where a provider is, and the keys for it, separated by commas; its folder gives the fields their variables."""

    api_key: SecretStr | None = None
    base_url: str

    @property
    def keys(self) -> list[str]:
        """The keys, in the order of trying."""
        given = self.api_key.get_secret_value().split(",") if self.api_key else []
        return [key.strip() for key in given if key.strip()]


@dataclass(frozen=True, slots=True)
class Supplier:
    """One way to a provider: an address and the credentials for it. `headers` are secret."""

    name: str
    base_url: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One call to make. `headers` hold the supplier's credentials."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class UpstreamReply:
    """What came back, whole. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


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


class Failed(Exception):
    """A call that brought no answer, as the provider's folder reads it.

    `error` is what the client is told before the first byte, `words` what it is told inside a stream;
    `retry` says that the same call may succeed if made again at once.
    """

    def __init__(self, error: ApiError, words: str | None = None, *, retry: bool = False) -> None:
        super().__init__(words or error.message)
        self.error, self.words, self.retry = error, words or error.message, retry


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
class Embeddings:
    """The embeddings half of a provider that has one."""

    plan: Callable[[EmbeddingsRequest, Model, Supplier], EmbeddingsPlan]


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider: pure callables, assembled in its folder's `__init__`."""

    name: str
    settings: type[ProviderSettings]
    suppliers: Callable[[ProviderSettings], list[Supplier]]
    """The ways to it, in the order of trying, from its settings."""
    plan: Callable[[ChatRequest, Model, Supplier], Plan]
    """Yields the calls to make first, returns the one that answers. Raises ApiError for what it cannot translate."""
    answer: Callable[[ChatRequest, UpstreamReply], Answer]
    """Reads a whole answer; raises Failed where it holds none."""
    stream: Callable[[ChatRequest, Mapping[str, str]], ChatStream]
    """Begins to read a streamed answer, whose headers are given."""
    failure: Callable[[UpstreamReply], Failed]
    """Reads a reply whose status is not 2xx."""
    on_disconnect: Literal["cut", "drain"]
    """When our client leaves: cut the call, where that stops the provider's meter; else read on for the counts."""
    embeddings: Embeddings | None = None


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
    return Failed(NoSupplier(), words, retry=True)
