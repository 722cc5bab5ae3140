"""The record of a request whose worker was lost: witnessed by the edge, and free of charge."""

from datetime import UTC, datetime

from services.edge.accounts import Standing
from shared.catalog import Model
from shared.events import TokenCounts, TokenRates, UsageRecorded, utc_text
from shared.money import Tokens


def worker_lost(
    request_id: str, standing: Standing, model: Model, path: str, *, stream: bool, lease_id: str | None = None
) -> UsageRecorded:
    """The event. Where the worker's own was durable before it died, that one came first and stands."""
    return UsageRecorded(
        request_id=request_id,
        workspace_id=standing.workspace_id,
        key_id=standing.key_id,
        lease_id=lease_id,
        provider=model.provider,
        model=model.id,
        upstream_model=model.upstream,
        supplier=None,
        endpoint="embeddings" if path.endswith("/embeddings") else "chat.completions",
        stream=stream,
        outcome="worker_lost",
        finish_reason=None,
        native_finish_reason=None,
        tokens=TokenCounts.model_validate(Tokens(), from_attributes=True),
        usage_source="reported",
        rates_pico_usd_per_token=TokenRates.model_validate(model.rates, from_attributes=True),
        pricing_version=model.pricing_version,
        cost_pico_usd="0",
        started_at=utc_text(datetime.now(UTC)),
        first_byte_ms=None,
        duration_ms=0,
        upstream_request_id=None,
        upstream_usage=None,
        attempts=[],
    )
