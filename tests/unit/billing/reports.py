"""Providers' reports for tests, in the shapes of their documentation."""

import json
from typing import Any

Json = dict[str, Any]


def bucket(day: str, *results: Json) -> Json:
    """A day of a usage or cost report."""
    return {"starting_at": f"{day}T00:00:00Z", "ending_at": f"{day}T23:59:59Z", "results": list(results)}


def page(*buckets: Json, more: bool = False) -> str:
    """A page of a usage or cost report."""
    return json.dumps({"data": list(buckets), "has_more": more, "next_page": "page_x" if more else None})


def counted(model: str | None, input: int, output: int, read: int = 0, write: int = 0, hour: int = 0) -> Json:
    """A result of a usage report."""
    return {
        "uncached_input_tokens": input,
        "cache_creation": {"ephemeral_1h_input_tokens": hour, "ephemeral_5m_input_tokens": write},
        "cache_read_input_tokens": read,
        "output_tokens": output,
        "server_tool_use": {"web_search_requests": 0},
        "api_key_id": None,
        "workspace_id": None,
        "model": model,
        "service_tier": None,
        "context_window": None,
    }


def priced(model: str | None, cents: str, description: str = "Usage", currency: str = "USD") -> Json:
    """A result of a cost report."""
    return {
        "currency": currency,
        "amount": cents,
        "workspace_id": None,
        "description": description,
        "cost_type": "tokens",
        "context_window": "0-200k",
        "model": model,
        "service_tier": "standard",
        "token_type": "uncached_input_tokens",
    }


def sku(day: str, description: str, amount: str, cost: str, **more: Any) -> Json:
    """A row of a billing export, as BigQuery writes it to JSON Lines."""
    return {
        "service": {"id": "AEFD-7695-64FA", "description": "Gemini API"},
        "sku": {"id": "399C-32AD-1412", "description": description},
        "usage_start_time": f"{day} 10:00:00 UTC",
        "usage_end_time": f"{day} 11:00:00 UTC",
        "cost": float(cost),
        "currency": "USD",
        "usage": {"amount": float(amount), "unit": "count", "amount_in_pricing_units": 0.1, "pricing_unit": "count"},
        "credits": [],
        "cost_type": "regular",
    } | more


def lines(*rows: Json) -> str:
    """JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)
