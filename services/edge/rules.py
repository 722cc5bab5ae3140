"""The gates before a provider is called: pure, and in the order in which a client meets them."""

from datetime import datetime

from services.edge.accounts import Standing
from shared.catalog import Model
from shared.errors import (
    ChatUnsupported,
    EmbeddingsUnsupported,
    ExpiredKey,
    UnsupportedParameter,
)
from shared.messages import AssistantMessage, ToolMessage
from shared.openai import ChatRequest


def check_key(standing: Standing, now: datetime) -> None:
    """Raises ExpiredKey from the key's last second on."""
    if standing.expires_at is not None and now >= standing.expires_at:
        raise ExpiredKey


def check_chat(request: ChatRequest, model: Model) -> None:
    """Raises ChatUnsupported, or UnsupportedParameter for what the model cannot do and must not silently drop."""
    if "embeddings" in model.capabilities:
        raise ChatUnsupported(f'model "{model.id}" does not support chat completions', param="model")
    if request.n not in {None, 1}:
        raise UnsupportedParameter("n other than 1 is not supported", param="n")
    if request.audio is not None or set(request.modalities or ["text"]) != {"text"}:
        raise UnsupportedParameter("text is the only modality supported", param="modalities")
    if "tools" not in model.capabilities and _uses_tools(request):
        raise UnsupportedParameter(f"tools are not supported on {model.provider} models", param="tools")


def _uses_tools(request: ChatRequest) -> bool:
    """Whether tools are offered, demanded, or part of the conversation; "auto" with nothing to choose from is not."""
    return (
        bool(request.tools or request.functions or request.function_call)
        or request.tool_choice not in (None, "none", "auto")  # a tuple: a choice of several has no hash
        or any(
            isinstance(message, ToolMessage) or (isinstance(message, AssistantMessage) and message.tool_calls)
            for message in request.messages
        )
    )


def check_embeddings(model: Model) -> None:
    """Raises EmbeddingsUnsupported."""
    if "embeddings" not in model.capabilities:
        raise EmbeddingsUnsupported(f'model "{model.id}" does not support embeddings', param="model")
