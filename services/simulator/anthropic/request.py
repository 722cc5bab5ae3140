"""The body of `POST /v1/messages`, as far as it is simulated: its shape; what depends on the model is in `checks`."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from services.simulator.anthropic.errors import Refusal
from services.simulator.model import compact, count

MAX_BODY_BYTES = 32 * 1024 * 1024  # docs.claude.com, "Errors", request size limits
MAX_MESSAGES = 100_000
IMAGE_TOKENS = 1600  # about what a picture of a megapixel costs


class Part(BaseModel):
    """A member of the body: what is not named is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CacheControl(Part):
    """A cache breakpoint."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class Text(Part):
    """A text block."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None

    @property
    def tokens(self) -> int:
        """What it counts."""
        return count(self.text)


class Base64Source(Part):
    """An image inside the request."""

    type: Literal["base64"]
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
    data: str


class UrlSource(Part):
    """An image that the provider fetches."""

    type: Literal["url"]
    url: Annotated[str, Field(pattern=r"^https://")]


class Image(Part):
    """An image block."""

    type: Literal["image"]
    source: Annotated[Base64Source | UrlSource, Field(discriminator="type")]
    cache_control: CacheControl | None = None

    @property
    def tokens(self) -> int:
        """What it counts."""
        return IMAGE_TOKENS


def _blocks(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Block = Annotated[Text | Image, Field(discriminator="type")]
Blocks = Annotated[list[Block], BeforeValidator(_blocks)]


class Message(Part):
    """One turn."""

    role: Literal["user", "assistant"]
    content: Blocks


class Thinking(Part):
    """The thinking parameter in all its kinds."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, Field(ge=1024)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class JsonFormat(Part):
    """Structured output."""

    type: Literal["json_schema"]
    output_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(Part):
    """Effort and format."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class MessagesRequest(Part):
    """The whole body."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Annotated[list[Text], BeforeValidator(_blocks)] = []
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stop_sequences: list[str] = []
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    metadata: dict[str, str | None] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    stream: bool = False

    @property
    def blocks(self) -> Iterator[Text | Image]:
        """Every block in the order in which prefixes are cached."""
        yield from self.system
        for message in self.messages:
            yield from message.content

    @property
    def prompt(self) -> str:
        """The text of the last user message."""
        last = next(message for message in reversed(self.messages) if message.role == "user")
        return "\n".join(block.text for block in last.content if isinstance(block, Text))

    @property
    def thinks(self) -> bool:
        """Whether thinking was asked for."""
        return self.thinking is not None and self.thinking.type != "disabled"

    @property
    def schema_tokens(self) -> int:
        """The hidden input of a structured output."""
        return count(compact(self.output_config.format.output_schema)) if self.output_config.format else 0


def parse(body: bytes) -> MessagesRequest:
    """Read a body. Raises Refusal naming the first member that is wrong."""
    if len(body) > MAX_BODY_BYTES:
        raise Refusal(413, "Request exceeds the maximum size")
    try:
        return MessagesRequest.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise Refusal(400, f"{place}: {problem['msg']}" if place else problem["msg"]) from None
