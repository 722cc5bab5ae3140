"""Who a key belongs to and what it may spend: asked of billing once, remembered for a few seconds.

Unknown keys are remembered, too, so that a wrong key cannot make every request a call. One call per key is under way
at a time. While billing is away a standing that was good is used a while longer; then nothing is admitted.
"""

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Self

from services.edge.billing import Billing
from shared.errors import BillingUnavailable, InvalidKey

FRESH_S = 2.0  # how long a changed limit or a revoked key may go unnoticed
STALE_S = 60.0  # how long a standing is used while billing is away
MOST_KEYS = 10_000  # some 10 MB; the longest unused are forgotten first


@dataclass(frozen=True, slots=True)
class Standing:
    """A key, its workspace, and what both have left; amounts in pico-dollars."""

    key_id: str
    workspace_id: str
    label: str | None
    expires_at: datetime | None
    revoked: bool
    strict: bool
    balance_pico: int
    spend_limit_pico: int | None
    limit_reset: str | None
    window_spend_pico: int
    window_resets_at: str | None
    requests_per_minute: int | None
    tokens_per_minute: int | None

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Self:
        """The standing in billing's answer."""
        expires, limit = answer["expires_at"], answer["spend_limit_pico"]
        return cls(
            key_id=answer["key_id"],
            workspace_id=answer["workspace_id"],
            label=answer["label"],
            expires_at=datetime.fromisoformat(expires).astimezone(UTC) if expires else None,
            revoked=answer["revoked_at"] is not None,
            strict=answer["strict"],
            balance_pico=int(answer["balance_pico"]),
            spend_limit_pico=None if limit is None else int(limit),
            limit_reset=answer["limit_reset"],
            window_spend_pico=int(answer["window_spend_pico"]),
            window_resets_at=answer["window_resets_at"],
            requests_per_minute=answer["requests_per_minute"],
            tokens_per_minute=answer["tokens_per_minute"],
        )


@dataclass(slots=True)
class _Remembered:
    """None: billing knows no such key."""

    standing: Standing | None
    at: float


class Accounts:
    """Standings by key."""

    def __init__(self, billing: Billing) -> None:
        self._billing = billing
        self._known: OrderedDict[str, _Remembered] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Remembered]] = {}

    async def standing(self, key: str) -> Standing:
        """The standing of a key's owner. Raises InvalidKey, BillingUnavailable."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        known = self._known.get(digest)
        if known is None or monotonic() - known.at > FRESH_S:
            known = await self._refreshed(digest, known)
        if known.standing is None or known.standing.revoked:
            raise InvalidKey
        return known.standing

    async def _refreshed(self, digest: str, known: _Remembered | None) -> _Remembered:
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._ask(digest))
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        try:
            return await asyncio.shield(task)
        except BillingUnavailable:
            if known is None or known.standing is None or monotonic() - known.at > STALE_S:
                raise
            return known

    async def _ask(self, digest: str) -> _Remembered:
        answer = await self._billing.standing(digest)
        remembered = _Remembered(None if answer is None else Standing.of(answer), monotonic())
        self._known[digest] = remembered
        self._known.move_to_end(digest)
        if len(self._known) > MOST_KEYS:
            self._known.popitem(last=False)
        return remembered
