"""The bodies of the Gemini API, as far as they are simulated (ai.google.dev/api); proto JSON takes both cases."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from services.simulator.google.errors import Refusal
from services.simulator.google.models import MAX_OUTPUT_TOKENS
from services.simulator.model import compact, count

MAX_STOPS = 5
IMAGE_TOKENS = 258  # one tile
KINDS = ("text", "inline_data", "file_data", "function_call", "function_response")


class Member(BaseModel):
    """A part of a body: camelCase or snake_case; what is not named is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class InlineData(Member):
    """Bytes inside the request."""

    mime_type: str
    data: str


class FileData(Member):
    """A file by its address."""

    mime_type: str
    file_uri: str


class FunctionCall(Member):
    """A call that the model made."""

    name: str
    args: dict[str, Any] = {}
    id: str | None = None


class FunctionResponse(Member):
    """What a function returned."""

    name: str
    response: dict[str, Any]
    id: str | None = None


class Part(Member):
    """Exactly one of its kinds."""

    text: str | None = None
    thought: bool = False
    thought_signature: str | None = None
    inline_data: InlineData | None = None
    file_data: FileData | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Part":
        if sum(getattr(self, kind) is not None for kind in KINDS) != 1:
            raise ValueError("a part must have exactly one initialized field")
        return self

    @property
    def words(self) -> str:
        """Everything in it that counts as text."""
        if self.function_call is not None:
            return self.function_call.name + compact(self.function_call.args)
        if self.function_response is not None:
            return compact(self.function_response.response)
        return self.text or ""

    @property
    def is_image(self) -> bool:
        """Whether it counts as an image."""
        return self.inline_data is not None or self.file_data is not None


class Content(Member):
    """One turn."""

    parts: Annotated[list[Part], Field(min_length=1)]
    role: str | None = None

    @property
    def words(self) -> str:
        """The text of its parts."""
        return "\n".join(part.words for part in self.parts if not part.is_image)


class FunctionDeclaration(Member):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.:-]{0,127}$")]
    description: str = ""
    parameters_json_schema: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None


class Tool(Member):
    """A group of functions."""

    function_declarations: list[FunctionDeclaration]


Upper = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)  # both cases are about


class CallingConfig(Member):
    """Whether the model may, must or must not call."""

    mode: Annotated[Literal["AUTO", "ANY", "NONE", "VALIDATED"], Upper] = "AUTO"
    allowed_function_names: list[str] = []


class ToolConfig(Member):
    """Its wrapper."""

    function_calling_config: CallingConfig = CallingConfig()


class ThinkingConfig(Member):
    """A level or a budget, by model."""

    include_thoughts: bool = False
    thinking_budget: int | None = None
    thinking_level: Annotated[Literal["MINIMAL", "LOW", "MEDIUM", "HIGH"], Upper] | None = None


class GenerationConfig(Member):
    """How to generate."""

    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_OUTPUT_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    candidate_count: Literal[1] = 1
    stop_sequences: Annotated[list[str], Field(max_length=MAX_STOPS)] = []
    seed: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, lt=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, lt=2)] | None = None
    response_mime_type: Literal["text/plain", "application/json"] = "text/plain"
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    thinking_config: ThinkingConfig = ThinkingConfig()


class CountRequest(Member):
    """The body of `:countTokens`, in the form that counts contents."""

    contents: Annotated[list[Content], Field(min_length=1)]


class Prefix(Member):
    """What a request may begin with, and a cache may hold."""

    contents: list[Content] = []
    system_instruction: Content | None = None
    tools: list[Tool] = []
    tool_config: ToolConfig = ToolConfig()

    @property
    def functions(self) -> Iterator[FunctionDeclaration]:
        """All that is declared."""
        return (function for tool in self.tools for function in tool.function_declarations)


class GenerateRequest(Prefix):
    """The body of `:generateContent` and `:streamGenerateContent`."""

    contents: Annotated[list[Content], Field(min_length=1)]
    safety_settings: list[dict[str, str]] = []
    cached_content: str | None = None
    generation_config: GenerationConfig = GenerationConfig()

    @property
    def prompt(self) -> str:
        """The text of the last user turn; of functions' results where it holds those."""
        return next((turn.words for turn in reversed(self.contents) if turn.role != "model"), "")


R = TypeVar("R", bound=BaseModel)


def parse(kind: type[R], body: bytes) -> R:
    """Read a body. Raises Refusal naming the first member that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        raise Refusal(400, f'Invalid JSON payload received. Unknown name "{problem["loc"][-1]}" at {place!r}.')
    raise Refusal(400, f"Invalid value at {place!r}: {problem['msg']}")


def tokens_by_modality(request: CountRequest | Prefix) -> dict[str, int]:
    """What the input counts, as text and as images; modalities that are absent are left out."""
    turns = list(request.contents)
    text = 0
    if isinstance(request, Prefix):
        turns += [request.system_instruction] if request.system_instruction else []
        text = sum(count(compact(function.model_dump(exclude_none=True))) for function in request.functions)
    text += sum(count(turn.words) for turn in turns)
    images = IMAGE_TOKENS * sum(part.is_image for turn in turns for part in turn.parts)
    return {"TEXT": text} | ({"IMAGE": images} if images else {})
