"""Anthropic: the Messages API."""

from services.workers.anthropic import request, response, wire
from services.workers.provider import Provider

PROVIDER = Provider(
    name="anthropic",
    settings=wire.Settings,
    suppliers=wire.suppliers,
    plan=request.plan,
    answer=response.answer,
    stream=response.Stream,
    failure=wire.failure,
    on_disconnect="cut",  # Anthropic stops counting when the call is cancelled
)
