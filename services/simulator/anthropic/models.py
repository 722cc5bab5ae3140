"""Claude, one row a model, by upstream id (docs.claude.com, "Models overview", "Extended thinking", "Effort")."""

from dataclasses import dataclass

LOW_TO_HIGH = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Claude:
    """What a model takes. `efforts` empty: no effort at all; `cache_minimum` and `context` in tokens."""

    id: str
    context: int
    max_output: int
    cache_minimum: int
    efforts: tuple[str, ...] = ()
    samples: bool = True
    thinks_by_budget: bool = True
    thinks_adaptively: bool = True
    prefills: bool = False
    shows_thoughts: bool = True


_ALL = (
    Claude("claude-haiku-4-5-20251001", 200_000, 64_000, 4096, thinks_adaptively=False, prefills=True),
    Claude("claude-sonnet-4-5-20250929", 200_000, 64_000, 1024, thinks_adaptively=False, prefills=True),
    Claude("claude-sonnet-4-6", 1_000_000, 128_000, 1024, (*LOW_TO_HIGH, "max")),
    Claude("claude-opus-4-6", 1_000_000, 128_000, 4096, (*LOW_TO_HIGH, "max")),
    Claude(
        "claude-opus-4-7",
        1_000_000,
        128_000,
        2048,
        (*LOW_TO_HIGH, "xhigh", "max"),
        samples=False,
        thinks_by_budget=False,
        shows_thoughts=False,
    ),
)
MODELS = {model.id: model for model in _ALL} | {
    "claude-haiku-4-5": _ALL[0],  # aliases are answered under the dated id
    "claude-sonnet-4-5": _ALL[1],
}
