"""Bodies as the official SDKs' own types see them: a member that they do not know, or of another shape, is refused."""

from collections.abc import Iterable
from typing import Any

from anthropic.types import message_create_params as anthropic_params
from google.genai import types as gemini
from pydantic import TypeAdapter

ANTHROPIC = TypeAdapter[Any](anthropic_params.MessageCreateParams)
GOOGLE = {
    "contents": TypeAdapter[Any](list[gemini.Content]),
    "systemInstruction": TypeAdapter[Any](gemini.Content),
    "tools": TypeAdapter[Any](list[gemini.Tool]),
    "toolConfig": TypeAdapter[Any](gemini.ToolConfig),
    "generationConfig": TypeAdapter[Any](gemini.GenerationConfig),
    "cachedContent": TypeAdapter[Any](str),
}
SAMPLING = {"temperature": (0, 1), "top_p": (0, 1), "top_k": (1, 2**63)}
"""Known to the API's version 2023-06-01 and to no type of the SDK, which speaks a later one."""


def check_anthropic(body: dict[str, Any]) -> None:
    """Raises ValidationError, or AssertionError for a member that the SDK does not know."""
    for name, (least, most) in SAMPLING.items():
        assert least <= body.get(name, most) <= most
    rest = {name: value for name, value in body.items() if name not in SAMPLING}
    assert plain(ANTHROPIC.validate_python(rest)) == rest


def check_google(body: dict[str, Any]) -> None:
    """Raises ValidationError, also for a member that the SDK does not know."""
    assert body.keys() <= GOOGLE.keys()
    for name, value in body.items():
        GOOGLE[name].validate_python(value)


def plain(value: Any) -> Any:
    """The value with what pydantic reads lazily read to its end."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    return value


CHECKS = {"anthropic": check_anthropic, "google": check_google}
