"""Where a key stands: whose it is, whether it still works, what its workspace has left and what it may still spend."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, select

from services.billing import pots
from services.billing.database import reading
from services.billing.tables import api_key, workspace
from services.billing.windows import window
from shared.errors import NotFound
from shared.events import utc_text


class Standings:
    """Answers the edge."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of(self, digest: str) -> dict[str, Any]:
        """The standing of the key with this SHA-256 digest, as JSON. Raises NotFound."""
        columns = (*api_key.c, workspace.c.strict)
        query = select(*columns).join(workspace, workspace.c.id == api_key.c.workspace_id)
        now = datetime.now(UTC)
        with reading(self._engine) as connection:
            key = connection.execute(query.where(api_key.c.digest == digest)).one_or_none()
            if key is None:
                raise NotFound("no key has this digest")
            credit = pots.credit(connection, [key.workspace_id])[key.workspace_id]
            limit = pots.limits(connection, [key.id], now)[key.id]
        current = window(key.limit_reset, now)
        return {
            "key_id": key.id,
            "workspace_id": key.workspace_id,
            "label": key.label,
            "expires_at": key.expires_at and utc_text(key.expires_at),
            "revoked_at": key.revoked_at and utc_text(key.revoked_at),
            "strict": key.strict,
            "balance_pico": str(credit.limit_pico),
            "available_pico": str(credit.available_pico),
            "spend_limit_pico": None if key.spend_limit_pico is None else str(key.spend_limit_pico),
            "limit_reset": key.limit_reset,
            "window_spend_pico": str(limit.spend_pico),
            "window_resets_at": current and utc_text(current.end),
            "requests_per_minute": key.requests_per_minute,
            "tokens_per_minute": key.tokens_per_minute,
        }
