"""What a request holds bounds what its answer can cost, with a limit of its own or without."""

from typing import Any

import pytest

from services.edge.estimate import chat_pico
from services.workers.anthropic.request import body
from shared.openai import ChatRequest
from tests.unit.workers.running import CATALOG

LIMITS = [None, 100, 10**6]
MODELS = [model for model in CATALOG if "embeddings" not in model.capabilities]


def asking(model: str, limit: int | None) -> ChatRequest:
    more: dict[str, Any] = {} if limit is None else {"max_tokens": limit}
    return ChatRequest.model_validate({"model": model, "messages": [{"role": "user", "content": "Hello"}]} | more)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_a_request_holds_the_longest_answer_that_its_worker_lets_through(model: Any, limit: Any, strict: bool) -> None:
    request = asking(model.id, limit)
    output_pico = chat_pico(request, model, 0, strict=strict) - chat_pico(asking(model.id, 1), model, 0, strict=strict)
    tokens = output_pico // model.rates.output + 1
    if model.provider == "anthropic":
        assert tokens == body(request, model)["max_tokens"]
    else:  # its API is given no number where the request has none
        assert tokens == min(limit or model.max_output_tokens, model.max_output_tokens)
