"""The contract between the host, which does all I/O, and a provider, which does none.

A provider is a folder of functions that make and read bytes. Several calls (a cache made first, counts asked for
after) are a generator that yields requests and receives replies, as in httpx's `auth_flow`: tested with plain `send()`.
Which tokens a provider counts inside which is settled in its folder: what leaves it are disjoint buckets.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic_settings import BaseSettings

from shared.catalog import Model
from shared.errors import ApiError
from shared.money import Tokens
from shared.openai import ChatRequest, EmbeddingsRequest
from shared.sse import Event

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Delta = Mapping[str, Any]
"""The `delta` of an OpenAI chunk: content, reasoning or tool_calls."""


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


@dataclass(frozen=True, slots=True)
class Failure:
    """A provider's refusal: what the client is told, and whether the same call may succeed if made again."""

    error: ApiError
    retry: bool = False


class ChatStream(Protocol):
    """Reads one streamed answer, event by event. Raises ApiError where the provider reports a failure in-band."""

    finish: Finish | None
    """None until the provider said that it is done; an end before that is a broken stream."""
    upstream_id: str | None

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
    settings: type[BaseSettings]
    suppliers: Callable[[Any], list[Supplier]]
    """The ways to it, in the order of trying, from its settings."""
    plan: Callable[[ChatRequest, Model, Supplier], Plan]
    """Yields the calls to make first, returns the one that answers. Raises ApiError for what it cannot translate."""
    answer: Callable[[UpstreamReply], Answer]
    """Reads a whole answer; raises ApiError where it holds none."""
    stream: Callable[[], ChatStream]
    failure: Callable[[UpstreamReply], Failure]
    """Reads a reply whose status is not 2xx."""
    request_id_header: str | None
    """The header with the provider's id of the request, where it has one."""
    on_disconnect: Literal["cut", "drain"]
    """What stops the provider's own meter when our client leaves: cutting the call, or nothing (read on for the counts)."""
    embeddings: Embeddings | None = None
