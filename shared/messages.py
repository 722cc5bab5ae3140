"""What a conversation is made of on the public wire: messages, their parts, tool calls and tools.

Source: OpenAI API reference, "Create chat completion"; OpenRouter's extensions of it. Permissive: whatever an OpenAI
SDK dumps of its own answers is accepted back, and unknown members mean nothing.
"""

import re
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.errors import InvalidRequest

_DATA_URL = re.compile(r"data:(image/[\w.+-]+);base64,(.+)", re.DOTALL)


def _writable(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse here what could not be written as JSON again: numbers past 64 bits, endless nesting."""
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return value


Schema = Annotated[dict[str, Any], AfterValidator(_writable)]


class Permissive(BaseModel):
    """An object in which unknown members are kept and mean nothing."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")


class CacheControl(Permissive):
    """A caching breakpoint after the part that carries it."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextPart(Permissive):
    """A piece of text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None


class ImageUrl(Permissive):
    """An https URL, or a data URL with base64 content."""

    url: Annotated[str, Field(pattern=r"^(https://|data:image/)")]
    detail: str | None = None

    @property
    def inline(self) -> tuple[str, str] | None:
        """Media type and base64 content of a data URL; None for an https one. Raises InvalidRequest."""
        if self.url.startswith("https://"):
            return None
        if not (match := _DATA_URL.fullmatch(self.url)):
            raise InvalidRequest("images must be https URLs, or data URLs of an image in base64", param="messages")
        return match[1], match[2]


class ImagePart(Permissive):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl
    cache_control: CacheControl | None = None


class RefusalPart(Permissive):
    """A refusal that an assistant gave earlier."""

    type: Literal["refusal"]
    refusal: str


Part = TextPart | ImagePart
UserPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]
AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class FunctionCall(Permissive):
    """The function an assistant called, with its arguments as JSON text."""

    name: str
    arguments: str = "{}"


class ToolCall(Permissive):
    """One call of an assistant's turn. `extra_content` carries a provider's signature back to it."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    extra_content: dict[str, Any] | None = None


class Spoken(Permissive):
    """A message with content, in whichever of its forms."""

    @property
    def parts(self) -> list[Part]:
        """The content as parts: text as one, a refusal as the text that it is, empty text left out."""
        content = getattr(self, "content", None) or getattr(self, "refusal", None) or []
        spoken = [content] if isinstance(content, str) else content
        parts = [_text_of(part) if isinstance(part, str | RefusalPart) else part for part in spoken]
        return [part for part in parts if not isinstance(part, TextPart) or part.text]


def _text_of(said: str | RefusalPart) -> TextPart:
    return TextPart(type="text", text=said if isinstance(said, str) else said.refusal)


class SystemMessage(Spoken):
    """Instructions; `developer` is OpenAI's newer name for the same."""

    role: Literal["system", "developer"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]


class UserMessage(Spoken):
    """What the user says or shows."""

    role: Literal["user"]
    content: str | Annotated[list[UserPart], Field(min_length=1)]


class AssistantMessage(Spoken):
    """An earlier answer of the model, replayed."""

    role: Literal["assistant"]
    content: str | list[AssistantPart] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None


class ToolMessage(Spoken):
    """The result of one tool call."""

    role: Literal["tool"]
    tool_call_id: str
    content: str | list[TextPart]


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class FunctionDefinition(Permissive):
    """A function the model may call; `parameters` is a JSON Schema."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(Permissive):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedTool(Permissive):
    """A tool choice that names one function."""

    name: str


class ToolChoice(Permissive):
    """`{"type": "function", "function": {"name"}}` or `{"type": "allowed_tools", "allowed_tools": {mode, tools}}`."""

    type: Literal["function", "allowed_tools"]
    function: NamedTool | None = None
    allowed_tools: dict[str, Any] | None = None
