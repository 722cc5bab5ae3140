"""Messages beside the services' own: a good event that costs nothing, and every kind of bad one."""

import json
from datetime import UTC, datetime
from typing import Any

from shared import catalog
from shared.events import USAGE_RECORDED, Encoded, TokenCounts, TokenRates, UsageRecorded, batch, utc_text
from shared.ids import new_id
from shared.money import Tokens

MODEL = next(iter(catalog.load()))
NOTHING = TokenCounts.model_validate(Tokens(), from_attributes=True)


def event(workspace_id: str, **members: Any) -> UsageRecorded:
    """The record of a request that was refused, with other or more members."""
    given: dict[str, Any] = {
        "request_id": new_id(),
        "workspace_id": workspace_id,
        "key_id": "none",
        "provider": MODEL.provider,
        "model": MODEL.id,
        "upstream_model": MODEL.upstream,
        "supplier": None,
        "endpoint": "chat.completions",
        "stream": False,
        "outcome": "upstream_refused",
        "finish_reason": None,
        "native_finish_reason": None,
        "tokens": NOTHING,
        "usage_source": "reported",
        "rates_pico_usd_per_token": TokenRates.model_validate(MODEL.rates, from_attributes=True),
        "pricing_version": MODEL.pricing_version,
        "cost_pico_usd": "0",
        "started_at": utc_text(datetime.now(UTC)),
        "first_byte_ms": None,
        "duration_ms": 0,
        "upstream_request_id": None,
        "upstream_usage": None,
        "attempts": [],
    }
    return UsageRecorded(**given | members)


def message(*events: UsageRecorded) -> bytes:
    """The body of one message."""
    return batch(Encoded.of(one, "tests").body for one in events)


def malformed(number: int) -> bytes:
    """A message that has one place to go, quarantine; no two are the same, and the kinds come in turn."""
    name, kinds = new_id(), 6
    match number % kinds:
        case 0:
            return f"{name} is not JSON".encode()
        case 1:
            return json.dumps({"not a batch": name}).encode()
        case 2:
            return json.dumps([{"type": "opentoken.usage.recorded.v9", "id": name}]).encode()
        case 3:
            return json.dumps([{"type": USAGE_RECORDED, "data": {"request_id": name}}]).encode()
        case 4:
            return message(event("demo", outcome="completed", cost_pico_usd="1"))
        case _:
            return message(event("nobody"))
