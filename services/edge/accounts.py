"""Who a key belongs to: asked of billing once, and remembered until billing announces that it changed.

While announcements cannot be heard, a standing is asked for again when it is half a second old; and what was remembered
from before is forgotten when they can be heard again. So a revoked key stops working within a second in any case. While
billing is away nobody can revoke anything: a standing that was good is used a while longer.
"""

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Self

from services.edge.billing import Billing
from shared.changes import AccountChanged
from shared.errors import BillingUnavailable, InvalidKey

FRESH_S = 600.0  # while every change is announced; a net for what nobody thought of
UNWATCHED_S = 0.5  # while changes may be missed
UNKNOWN_S = 2.0  # how long a wrong key is remembered as wrong
STALE_S = 60.0  # how long a standing is used while billing is away: as long as a lease is good
MOST_KEYS = 10_000  # some 10 MB; wrong keys are forgotten first, then the longest unused


@dataclass(frozen=True, slots=True)
class Standing:
    """A key and its workspace."""

    key_id: str
    workspace_id: str
    label: str | None
    expires_at: datetime | None
    revoked: bool
    strict: bool
    spend_limit_pico: int | None
    limit_reset: str | None
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
            spend_limit_pico=None if limit is None else int(limit),
            limit_reset=answer["limit_reset"],
            requests_per_minute=answer["requests_per_minute"],
            tokens_per_minute=answer["tokens_per_minute"],
        )


@dataclass(frozen=True, slots=True)
class _Remembered:
    """None: billing knows no such key. `at`: when it was asked for."""

    standing: Standing | None
    at: float


class Accounts:
    """Standings by key."""

    def __init__(self, billing: Billing) -> None:
        self._billing = billing
        self._known: OrderedDict[str, _Remembered] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Remembered]] = {}
        self._watched = False
        self._changes = 0

    async def standing(self, key: str) -> Standing:
        """The standing of a key; does not wait where it is remembered. Raises InvalidKey, BillingUnavailable."""
        digest = digest_of(key)
        known = self._known.get(digest)
        if known is None or monotonic() - known.at > self._good_s(known):
            known = await self._refreshed(digest, known)
        elif known.standing is not None:
            self._known.move_to_end(digest)
        if known.standing is None or known.standing.revoked:
            raise InvalidKey
        return known.standing

    def _good_s(self, known: _Remembered) -> float:
        if known.standing is None:
            return UNKNOWN_S
        return FRESH_S if self._watched else UNWATCHED_S

    def began(self) -> None:
        """Changes are announced from now on; what changed before may be remembered wrongly."""
        self._watched = True
        self._forget(set(self._known))

    def ended(self) -> None:
        """Changes may be missed."""
        self._watched = False

    def changed(self, change: AccountChanged) -> None:
        """Forget what is no longer so, and which keys are unknown: one of them may have just been made."""
        if change.reason == "account":
            self._forget({digest for digest, known in self._known.items() if _concerns(change, known.standing)})

    def _forget(self, digests: set[str]) -> None:
        self._changes += 1
        self._asking.clear()  # those answers may be older than the change
        for digest in digests:
            del self._known[digest]

    async def _refreshed(self, digest: str, known: _Remembered | None) -> _Remembered:
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._ask(digest))
            task.add_done_callback(lambda done: self._asking.get(digest) is done and self._asking.pop(digest))
        try:
            return await asyncio.shield(task)
        except BillingUnavailable:
            if known is None or known.standing is None or monotonic() - known.at > STALE_S:
                raise
            if self._known.get(digest) is not known:  # it changed meanwhile
                raise
            return known

    async def _ask(self, digest: str) -> _Remembered:
        changes, at = self._changes, monotonic()
        answer = await self._billing.standing(digest)
        remembered = _Remembered(None if answer is None else Standing.of(answer), at)
        if changes == self._changes:  # else the answer may be older than the change
            self._known[digest] = remembered
            self._known.move_to_end(digest, last=answer is not None)
            if len(self._known) > MOST_KEYS:
                self._known.popitem(last=False)
        return remembered


def digest_of(key: str) -> str:
    """What billing knows a key by."""
    return hashlib.sha256(key.encode()).hexdigest()


def _concerns(change: AccountChanged, standing: Standing | None) -> bool:
    if standing is None:
        return True
    return standing.workspace_id == change.workspace_id and change.key_id in {None, standing.key_id}
