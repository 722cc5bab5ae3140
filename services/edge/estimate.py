"""What a request may cost, before anybody knows: bytes and limits times the catalog's rates, in pico-dollars.

What goes out is counted at the most that the answer can have: the request's limit, else the default that the worker
sends, else the model's cap. Less would not bound what many requests at once can overspend. What comes in is counted at
four bytes a token; the strict estimate is a bound there, too: no token has less than a byte, and no rate is dearer.
"""

from shared.catalog import Model
from shared.messages import ImagePart
from shared.money import Rates
from shared.openai import ChatRequest

BYTES_PER_TOKEN = 4  # the usual rule of thumb
IMAGE_TOKENS = 1_600  # of a large picture: Anthropic's most on all but its newest models, some six tiles of Google's
MOST_IMAGE_TOKENS = 5_000  # a picture in the highest resolution that any model takes (4,784 on Claude Opus 4.7)
MOST_ADDED_TOKENS = 2_000  # what providers add unseen: prompts for tools and schemas (some 500), marks around messages


def output_pico(request: ChatRequest, model: Model) -> int:
    """The part of it that is for the answer."""
    return model.output_tokens(request.output_limit) * model.rates.output


def chat_pico(request: ChatRequest, model: Model, size_bytes: int, *, strict: bool) -> int:
    """What a chat request of this size may cost, its answer included."""
    images = [part for message in request.messages for part in _parts(message) if isinstance(part, ImagePart)]
    text_bytes = max(0, size_bytes - sum(len(image.image_url.url) for image in images))
    answer_pico = output_pico(request, model)
    if strict:
        tokens = text_bytes + MOST_ADDED_TOKENS + MOST_IMAGE_TOKENS * len(images)
        return tokens * _dearest(model.rates) + answer_pico
    tokens = -(-text_bytes // BYTES_PER_TOKEN) + IMAGE_TOKENS * len(images)
    return tokens * model.rates.input + answer_pico


def embeddings_pico(model: Model, size_bytes: int, *, strict: bool) -> int:
    """What an embeddings request of this size may cost."""
    return size_bytes * model.rates.input if strict else -(-size_bytes // BYTES_PER_TOKEN) * model.rates.input


def _dearest(rates: Rates) -> int:
    return max(rates.input, rates.cache_read, rates.cache_write, rates.cache_write_1h)


def _parts(message: object) -> list[object]:
    content = getattr(message, "content", None)
    return content if isinstance(content, list) else []
