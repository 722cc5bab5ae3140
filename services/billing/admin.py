"""The admin API: workspaces, keys, credits, corrections. A key's text is in one answer only: the one that made it."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from aiohttp import web

from services.billing import admin_bodies as bodies
from services.billing.accounts import Accounts, Announce, Changed, NewKey
from services.billing.admin_log import actor_of
from services.billing.bodies import PageQuery
from services.billing.books import entry_json, listing
from services.billing.database import Row, Threads
from services.billing.ledger import Credit, Ledger
from shared.bodies import parse
from shared.events import utc_text
from shared.http import json_response
from shared.money import usd

T = TypeVar("T")


class Admin:
    """Handlers; who may call them is decided where they are routed. What they change is announced."""

    def __init__(self, accounts: Accounts, ledger: Ledger, threads: Threads, announce: Announce) -> None:
        self._accounts, self._ledger, self._threads, self._announce = accounts, ledger, threads, announce

    async def create_workspace(self, request: web.Request) -> web.Response:
        """POST /admin/workspaces."""
        body = parse(bodies.NewWorkspace, await request.read())
        create = partial(self._accounts.create_workspace, body.name, body.id, strict=body.strict)
        return json_response(_workspace_json(await self._carry_out(create, _of_workspace)), 201)

    async def workspaces(self, request: web.Request) -> web.Response:
        """GET /admin/workspaces."""
        query = parse(PageQuery, request.query)
        rows = await self._threads.read(self._accounts.workspaces, query.cursor or "", query.limit + 1)
        return json_response(listing(rows, query.limit, _workspace_json, "id"))

    async def workspace(self, request: web.Request) -> web.Response:
        """GET /admin/workspaces/{id}."""
        found = await self._threads.read(self._accounts.workspace, request.match_info["id"])
        return json_response(_workspace_json(found))

    async def change_workspace(self, request: web.Request) -> web.Response:
        """PATCH /admin/workspaces/{id}."""
        changes = parse(bodies.WorkspaceChanges, await request.read()).model_dump(exclude_unset=True)
        change = partial(self._accounts.change_workspace, request.match_info["id"], changes)
        return json_response(_workspace_json(await self._carry_out(change, _of_workspace)))

    async def create_key(self, request: web.Request) -> web.Response:
        """POST /admin/workspaces/{id}/keys."""
        body = parse(bodies.NewKey, await request.read())
        new = NewKey(request.match_info["id"], secret=body.secret, **body.columns())
        create = partial(self._accounts.create_key, new)
        row, secret = await self._carry_out(create, lambda made: _of_key(made[0]))
        return json_response(_key_json(row) | {"secret": secret}, 201)

    async def keys(self, request: web.Request) -> web.Response:
        """GET /admin/workspaces/{id}/keys."""
        query, workspace_id = parse(PageQuery, request.query), request.match_info["id"]
        rows = await self._threads.read(self._accounts.keys, workspace_id, query.cursor or "", query.limit + 1)
        return json_response(listing(rows, query.limit, _key_json, "id"))

    async def key(self, request: web.Request) -> web.Response:
        """GET /admin/keys/{key_id}."""
        return json_response(_key_json(await self._threads.read(self._accounts.key, request.match_info["key_id"])))

    async def change_key(self, request: web.Request) -> web.Response:
        """PATCH /admin/keys/{key_id}."""
        changes = parse(bodies.KeyChanges, await request.read()).columns()
        change = partial(self._accounts.change_key, request.match_info["key_id"], changes)
        return json_response(_key_json(await self._carry_out(change, _of_key)))

    async def revoke_key(self, request: web.Request) -> web.Response:
        """DELETE /admin/keys/{key_id}."""
        revoke = partial(self._accounts.revoke, request.match_info["key_id"])
        return json_response(_key_json(await self._carry_out(revoke, _of_key)))

    async def credit(self, request: web.Request) -> web.Response:
        """POST /admin/workspaces/{id}/credits."""
        body = parse(bodies.NewCredit, await request.read())
        return await self._post(request, body, body.amount_usd, contra=body.contra)

    async def refund(self, request: web.Request) -> web.Response:
        """POST /admin/workspaces/{id}/refunds."""
        body = parse(bodies.NewRefund, await request.read())
        return await self._post(request, body, body.amount_usd, contra="refund", reverses=body.reverses)

    async def adjust(self, request: web.Request) -> web.Response:
        """POST /admin/workspaces/{id}/adjustments."""
        body = parse(bodies.NewAdjustment, await request.read())
        return await self._post(request, body, body.amount_usd, contra="adjustment")

    async def _post(
        self, request: web.Request, body: bodies.Movement, amount_pico: int | None, **kind: Any
    ) -> web.Response:
        workspace_id, actor = request.match_info["id"], actor_of(request)
        credit = Credit(workspace_id, amount_pico, body.reference, actor, body.reason, **kind)
        entry = await self._carry_out(partial(self._ledger.credit, credit), lambda _: Changed(workspace_id))
        return json_response(entry_json(entry), 201)

    async def _carry_out(self, change: Callable[[], T], changed: Callable[[T], Changed]) -> T:
        """Commit a change, then announce it: both, even where the caller leaves meanwhile."""

        async def both() -> T:
            done = await self._threads.write(change)
            await self._announce(changed(done))
            return done

        return await asyncio.shield(asyncio.create_task(both()))


def _of_workspace(row: Row) -> Changed:
    return Changed(row["id"])


def _of_key(row: Row) -> Changed:
    return Changed(row["workspace_id"], row["id"])


def _workspace_json(row: Row) -> dict[str, Any]:
    created_at = utc_text(row["created_at"])
    return {"id": row["id"], "name": row["name"], "strict": row["strict"], "created_at": created_at}


def _key_json(row: Row) -> dict[str, Any]:
    limit_pico = row["spend_limit_pico"]
    return {
        "key_id": row["id"],
        "workspace_id": row["workspace_id"],
        "label": row["label"],
        "expires_at": row["expires_at"] and utc_text(row["expires_at"]),
        "revoked_at": row["revoked_at"] and utc_text(row["revoked_at"]),
        "spend_limit_usd": None if limit_pico is None else usd(limit_pico),
        "limit_reset": row["limit_reset"],
        "requests_per_minute": row["requests_per_minute"],
        "tokens_per_minute": row["tokens_per_minute"],
        "created_at": utc_text(row["created_at"]),
    }
