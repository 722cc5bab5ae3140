"""Where a key stands: whose it is, whether it still works, what its workspace has left and what it may still spend.

Windows are calendar windows in UTC: the day, the ISO week from Monday, the month; without a reset, the key's lifetime.
Spend counts in the window in which it reached the books.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Engine, func, select

from services.billing.database import reading
from services.billing.ledger import heads
from services.billing.tables import api_key, usage_record, workspace
from shared.errors import NotFound
from shared.events import utc_text

LimitReset = Literal["daily", "weekly", "monthly"]


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` up to `end`, which belongs to the next window."""

    start: datetime
    end: datetime


def window(limit_reset: LimitReset | None, now: datetime) -> Window | None:
    """The window that holds `now`; None where the limit is for the key's lifetime."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match limit_reset:
        case "daily":
            return Window(day, day + timedelta(days=1))
        case "weekly":
            monday = day - timedelta(days=day.weekday())
            return Window(monday, monday + timedelta(days=7))
        case "monthly":
            first = day.replace(day=1)
            return Window(first, (first + timedelta(days=31)).replace(day=1))
        case None:
            return None


class Standings:
    """Answers the edge; every answer is one consistent read of the books."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of(self, digest: str) -> dict[str, Any]:
        """The standing of the key with this SHA-256 digest, as JSON. Raises NotFound."""
        columns = (*api_key.c, workspace.c.strict)
        query = select(*columns).join(workspace, workspace.c.id == api_key.c.workspace_id)
        with reading(self._engine) as connection:
            key = connection.execute(query.where(api_key.c.digest == digest)).one_or_none()
            if key is None:
                raise NotFound("no key has this digest")
            current = window(key.limit_reset, datetime.now(UTC))
            spend = select(func.coalesce(func.sum(usage_record.c.cost_pico), 0)).where(usage_record.c.key_id == key.id)
            if current is not None:
                spend = spend.where(usage_record.c.recorded_at >= current.start)
            spend_pico = int(connection.execute(spend).scalar_one())
            balance_pico = heads(connection, [key.workspace_id])[key.workspace_id].balance_pico
        return {
            "key_id": key.id,
            "workspace_id": key.workspace_id,
            "label": key.label,
            "expires_at": key.expires_at and utc_text(key.expires_at),
            "revoked_at": key.revoked_at and utc_text(key.revoked_at),
            "strict": key.strict,
            "balance_pico": str(balance_pico),
            "spend_limit_pico": None if key.spend_limit_pico is None else str(key.spend_limit_pico),
            "limit_reset": key.limit_reset,
            "window_spend_pico": str(spend_pico),
            "window_resets_at": current and utc_text(current.end),
            "requests_per_minute": key.requests_per_minute,
            "tokens_per_minute": key.tokens_per_minute,
        }
