"""Gemini, one row a model, by upstream id (ai.google.dev, "Gemini models", "Thinking", "Embeddings")."""

from dataclasses import dataclass

CONTEXT_TOKENS = 1_048_576
MAX_OUTPUT_TOKENS = 65_536
MIN_BUDGET, MAX_BUDGET = 128, 32_768
DYNAMIC_BUDGET = -1
LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH")  # each thinks longer than the one before, MINIMAL not at all
MIN_DIMENSIONS, MAX_DIMENSIONS = 128, 3072


@dataclass(frozen=True, slots=True)
class Gemini:
    """What a chat model takes. No `levels` means budgets; `penalties` and `seed` belong to the older generation.

    `min_cached`: tokens of the smallest prefix that can be cached.
    """

    id: str
    levels: tuple[str, ...] = LEVELS
    takes_penalties: bool = False
    checks_signatures: bool = True
    names_calls: bool = True
    min_cached: int = 1024


CHAT_MODELS = {
    model.id: model
    for model in (
        Gemini(
            "gemini-2.5-pro",
            levels=(),
            takes_penalties=True,
            checks_signatures=False,
            names_calls=False,
            min_cached=4096,
        ),
        Gemini("gemini-3-flash-preview"),
        Gemini("gemini-3.1-flash-lite"),
        Gemini("gemini-3.1-pro-preview", levels=LEVELS[1:], names_calls=False, min_cached=4096),
    )
}
EMBEDDING_MODELS = frozenset({"gemini-embedding-001"})
