"""What differs between Gemini models, by the catalog's `family` (ai.google.dev, "Thinking" and the model pages)."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.openai import Effort

LEVELS: Mapping[Effort, str] = {
    "none": "MINIMAL",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
    "max": "HIGH",
}
LOWEST_LOW: Mapping[Effort, str] = {**LEVELS, "none": "LOW", "minimal": "LOW"}
BUDGETS: Mapping[Effort, int] = {
    "minimal": 128,
    "low": 1_024,
    "medium": 8_192,
    "high": 24_576,
    "xhigh": 32_768,
    "max": 32_768,
}
"""1K, 8K and 24K are the numbers of Google's own OpenAI layer; the ends are the model's limits."""


@dataclass(frozen=True, slots=True)
class Family:
    """`levels` or `budgets` size the thinking; `legacy`: takes penalties and a seed, and no ids on function calls."""

    levels: Mapping[Effort, str] | None = None
    budgets: Mapping[Effort, int] | None = None
    legacy: bool = False


FAMILIES = {
    "gemini-2.5": Family(budgets=BUDGETS, legacy=True),
    "gemini-3-flash": Family(levels=LEVELS),
    "gemini-3-pro": Family(levels=LOWEST_LOW),
}
