"""Usage events of every shape, for property tests."""

from typing import Any

from hypothesis import strategies as st

from shared import catalog
from shared.events import Attempt, Encoded, TokenCounts, TokenRates, UsageRecorded
from shared.ids import new_id
from shared.money import Tokens, cost_pico

MODELS = tuple(catalog.load())
OUTCOMES = [
    "completed", "client_disconnected", "upstream_refused", "upstream_failed", "upstream_interrupted", "worker_lost",
]  # fmt: skip
BILLED = {"completed", "client_disconnected"}  # billing.md, "Policy: what is billed"

counts = st.integers(0, 2**53)
tokens = st.builds(
    Tokens, input=counts, cache_read=counts, cache_write=counts, cache_write_1h=counts, output=counts, reasoning=counts
)
texts = st.text(max_size=20)
maybe = st.none() | texts
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
attempts = st.builds(Attempt, supplier=texts, status=st.none() | st.integers(100, 599), duration_ms=counts)


@st.composite
def usages(draw: st.DrawFn) -> UsageRecorded:
    """A usage event as a service could make it: its cost is what the policy says."""
    model, used, outcome = draw(st.sampled_from(MODELS)), draw(tokens), draw(st.sampled_from(OUTCOMES))
    return UsageRecorded(
        request_id=new_id(),
        workspace_id=draw(texts),
        key_id=draw(texts),
        lease_id=draw(maybe),
        provider=model.provider,
        model=model.id,
        upstream_model=model.upstream,
        supplier=draw(maybe),
        endpoint=draw(st.sampled_from(["chat.completions", "embeddings"])),
        stream=draw(st.booleans()),
        outcome=outcome,  # type: ignore[arg-type]  # one of the literals
        finish_reason=draw(maybe),
        native_finish_reason=draw(maybe),
        tokens=TokenCounts.model_validate(used, from_attributes=True),
        usage_source=draw(st.sampled_from(["reported", "estimated"])),
        rates_pico_usd_per_token=TokenRates.model_validate(model.rates, from_attributes=True),
        pricing_version=model.pricing_version,
        cost_pico_usd=str(cost_pico(used, model.rates) if outcome in BILLED else 0),
        started_at="2026-01-31T12:00:00.000000Z",
        first_byte_ms=draw(st.none() | counts),
        duration_ms=draw(counts),
        upstream_request_id=draw(maybe),
        upstream_usage=draw(st.none() | st.dictionaries(texts, json_values, max_size=3)),
        attempts=draw(st.lists(attempts, max_size=3)),
        user_digest=draw(maybe),
    )


def numbered(number: int, workspace_id: str = "w", size: int = 0) -> Encoded:
    """A small thing to publish, told apart by its number; `size` bytes at least."""
    return Encoded(workspace_id, b'{"number":%d,"padding":"%b"}' % (number, b"x" * size))
