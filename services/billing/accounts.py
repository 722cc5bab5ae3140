"""Workspaces and their keys. A key is shown once, when it is made; what is kept is its digest and its public id."""

import hashlib
import re
import secrets
import string
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Table, insert, select, update

from services.billing.database import ACCOUNTS_LOCK, Row, reading, row, rows, writing
from services.billing.errors import Conflict
from services.billing.tables import api_key, workspace
from services.billing.windows import LimitReset
from shared.errors import NotFound
from shared.ids import new_id

PUBLIC_ID_CHARS = 12  # of 62: two alike are out of reach, and it can be read out
PUBLIC_ID_ALPHABET = string.ascii_letters + string.digits  # no dash: an id never looks like an option
SECRET_BYTES = 32  # 43 characters of base64url
_OUR_FORM = re.compile(r"sk-optk-([A-Za-z0-9_-]{12})-[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to make; where `secret` is given, that text becomes the key."""

    workspace_id: str
    label: str
    expires_at: datetime | None = None
    spend_limit_pico: int | None = None
    limit_reset: LimitReset | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """What is no longer as the edges may remember it: a key, or all of a workspace's where `key_id` is None."""

    workspace_id: str
    key_id: str | None = None


Announce = Callable[[Changed], Awaitable[None]]
"""Called after a change is committed. It raises nothing: what was changed stays changed."""


class Accounts:
    """Writes and lists accounts; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create_workspace(self, name: str, id: str | None = None, *, strict: bool = False) -> Row:
        """A new workspace. Raises Conflict where the id is taken."""
        id_ = id or new_id()
        new = {"id": id_, "name": name, "strict": strict, "created_at": datetime.now(UTC)}
        with writing(self._engine, ACCOUNTS_LOCK) as connection:
            if _get(connection, workspace, id_) is not None:
                raise Conflict(f'workspace "{id_}" exists already: choose another id', param="id")
            connection.execute(insert(workspace), new)
        return new

    def workspace(self, workspace_id: str) -> Row:
        """One workspace. Raises NotFound."""
        with reading(self._engine) as connection:
            return _existing(connection, workspace, workspace_id)

    def change_workspace(self, workspace_id: str, changes: Mapping[str, Any]) -> Row:
        """The workspace with other values in these columns. Raises NotFound."""
        with writing(self._engine, ACCOUNTS_LOCK) as connection:
            return _changed(connection, workspace, workspace_id, changes)

    def workspaces(self, after: str, limit: int) -> list[Row]:
        """Workspaces by id, from the first one past `after`."""
        query = select(workspace).where(workspace.c.id > after).order_by(workspace.c.id).limit(limit)
        with reading(self._engine) as connection:
            return rows(connection, query)

    def create_key(self, new: NewKey) -> tuple[Row, str]:
        """A new key's row, and the key itself. Raises NotFound (workspace), Conflict (the key exists already)."""
        secret = new.secret or make_secret()
        key: dict[str, Any] = {
            "id": public_id(secret),
            "workspace_id": new.workspace_id,
            "digest": digest(secret),
            "label": new.label,
            "expires_at": new.expires_at,
            "revoked_at": None,
            "spend_limit_pico": new.spend_limit_pico,
            "limit_reset": new.limit_reset,
            "requests_per_minute": new.requests_per_minute,
            "tokens_per_minute": new.tokens_per_minute,
            "created_at": datetime.now(UTC),
        }
        with writing(self._engine, ACCOUNTS_LOCK) as connection:
            _existing(connection, workspace, new.workspace_id)
            same = (api_key.c.id == key["id"]) | (api_key.c.digest == key["digest"])
            if connection.execute(select(api_key.c.id).where(same)).first() is not None:
                raise Conflict("this key, or one with its public id, exists already: give another", param="secret")
            connection.execute(insert(api_key), key)
        return key, secret

    def key(self, key_id: str) -> Row:
        """One key. Raises NotFound."""
        with reading(self._engine) as connection:
            return _existing(connection, api_key, key_id)

    def change_key(self, key_id: str, changes: Mapping[str, Any]) -> Row:
        """The key with other values in these columns. Raises NotFound."""
        with writing(self._engine, ACCOUNTS_LOCK) as connection:
            return _changed(connection, api_key, key_id, changes)

    def keys(self, workspace_id: str, after: str, limit: int) -> list[Row]:
        """A workspace's keys by id, from the first one past `after`. Raises NotFound."""
        of_workspace = (api_key.c.workspace_id == workspace_id) & (api_key.c.id > after)
        with reading(self._engine) as connection:
            _existing(connection, workspace, workspace_id)
            query = select(api_key).where(of_workspace).order_by(api_key.c.id).limit(limit)
            return rows(connection, query)

    def knows(self, secret: str) -> bool:
        """Whether this very key exists."""
        with reading(self._engine) as connection:
            found = connection.execute(select(api_key.c.id).where(api_key.c.digest == digest(secret)))
            return found.first() is not None

    def revoke(self, key_id: str) -> Row:
        """The key, revoked now or before. Raises NotFound."""
        with writing(self._engine, ACCOUNTS_LOCK) as connection:
            key = _existing(connection, api_key, key_id)
            if key["revoked_at"] is not None:
                return key
            return _changed(connection, api_key, key_id, {"revoked_at": datetime.now(UTC)})


def digest(secret: str) -> str:
    """What is kept of a key: SHA-256 in hex. Keys are random, so no slower hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def public_id(secret: str) -> str:
    """The part of our own form that may be shown; of a key in another form, the first 12 digits of its digest."""
    found = _OUR_FORM.fullmatch(secret)
    return found[1] if found else digest(secret)[:12]


def without_secrets(text: str) -> str:
    """The text with each key of our own form cut down to what may be shown: operators paste keys where ids belong."""
    return _OUR_FORM.sub(r"sk-optk-\1-…", text)


def make_secret() -> str:
    """A fresh key in our own form."""
    shown = "".join(secrets.choice(PUBLIC_ID_ALPHABET) for _ in range(PUBLIC_ID_CHARS))
    return f"sk-optk-{shown}-{secrets.token_urlsafe(SECRET_BYTES)}"


def _get(connection: Connection, table: Table, id: str) -> Row | None:
    return row(connection, select(table).where(table.c.id == id))


def _existing(connection: Connection, table: Table, id: str) -> Row:
    if (found := _get(connection, table, id)) is None:
        kind = "workspace" if table is workspace else "key"
        raise NotFound(f'{kind} "{without_secrets(id)}" not found')
    return found


def _changed(connection: Connection, table: Table, id: str, changes: Mapping[str, Any]) -> Row:
    found = _existing(connection, table, id)
    connection.execute(update(table).where(table.c.id == id).values(dict(changes)))
    return {**found, **changes}
