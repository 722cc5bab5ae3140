"""What differs between Claude models, by the catalog's `family` (docs.claude.com, "Models overview")."""

from dataclasses import dataclass
from typing import Literal

Thinks = Literal["budget", "effort or budget", "effort"]


@dataclass(frozen=True, slots=True)
class Family:
    """`sampling`: temperature, top_p and top_k are accepted. `thinks`: how thinking is sized."""

    sampling: bool
    thinks: Thinks
    efforts: frozenset[str]


FAMILIES = {
    "budget-thinking": Family(sampling=True, thinks="budget", efforts=frozenset()),
    "adaptive-thinking": Family(
        sampling=True, thinks="effort or budget", efforts=frozenset({"low", "medium", "high", "max"})
    ),
    "adaptive-only": Family(
        sampling=False, thinks="effort", efforts=frozenset({"low", "medium", "high", "xhigh", "max"})
    ),
}
