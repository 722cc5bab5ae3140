"""Usage events for tests: the shape of a real one, with what a test is about set by name."""

from typing import Any

from hypothesis import strategies as st

from shared import catalog
from shared.events import BILLED, Attempt, TokenCounts, TokenRates, UsageRecorded
from shared.ids import new_id
from shared.money import Rates, Tokens, cost_pico

MODELS = tuple(catalog.load())
GEMINI = next(model for model in MODELS if model.id == "google/gemini-3-flash")
TOKENS = Tokens(input=252, cache_read=1280, output=418, reasoning=192)
COST_PICO = 1_444_000_000  # the receipt of api.md


def usage(
    workspace_id: str = "w", tokens: Tokens = TOKENS, rates: Rates = GEMINI.rates, **changes: Any
) -> UsageRecorded:
    """An event whose cost is right unless `cost_pico_usd` says otherwise."""
    billed = changes.get("outcome", "completed") in BILLED
    event = {
        "request_id": new_id(),
        "workspace_id": workspace_id,
        "key_id": "AbCdEfGh1234",
        "provider": "google",
        "model": GEMINI.id,
        "upstream_model": GEMINI.upstream,
        "supplier": "google",
        "endpoint": "chat.completions",
        "stream": False,
        "outcome": "completed",
        "finish_reason": "stop",
        "native_finish_reason": "STOP",
        "tokens": TokenCounts(**{name: getattr(tokens, name) for name in TokenCounts.model_fields}),
        "usage_source": "reported",
        "rates_pico_usd_per_token": TokenRates(**{name: getattr(rates, name) for name in TokenRates.model_fields}),
        "pricing_version": GEMINI.pricing_version,
        "cost_pico_usd": str(cost_pico(tokens, rates) if billed else 0),
        "started_at": "2026-01-31T12:00:00.000000Z",
        "first_byte_ms": 310,
        "duration_ms": 1200,
        "upstream_request_id": "upstream-1",
        "upstream_usage": {"promptTokenCount": 1532, "thoughtsTokenCount": 192},
        "attempts": [Attempt(supplier="google", status=200, duration_ms=1180)],
    }
    return UsageRecorded.model_validate(event | changes)


counts = st.integers(0, 2_000_000)
tokens = st.builds(Tokens, input=counts, cache_read=counts, cache_write=counts, cache_write_1h=counts, output=counts)
usages = st.builds(
    usage,
    workspace_id=st.sampled_from(["a", "b", "c"]),
    tokens=tokens,
    rates=st.sampled_from([model.rates for model in MODELS]),
    outcome=st.sampled_from(["completed", "client_disconnected", "upstream_failed"]),
)
