"""The admin API: workspaces, keys, credits, corrections. A key's text is in one answer only: the one that made it."""

from typing import Any

from aiohttp import web

from services.billing.accounts import Accounts, NewKey
from services.billing.admin_log import ACTOR
from services.billing.bodies import NewAdjustment, NewCredit, NewRefund, NewWorkspace, PageQuery
from services.billing.bodies import NewKey as NewKeyBody
from services.billing.books import entry_json, listing
from services.billing.database import Row, Threads
from services.billing.ledger import Credit, Ledger
from shared.bodies import parse
from shared.events import utc_text
from shared.http import json_response
from shared.money import usd


class Admin:
    """Handlers; who may call them is decided where they are routed."""

    def __init__(self, accounts: Accounts, ledger: Ledger, threads: Threads) -> None:
        self._accounts, self._ledger, self._threads = accounts, ledger, threads

    async def create_workspace(self, request: web.Request) -> web.Response:
        """POST /admin/workspaces."""
        body = parse(NewWorkspace, await request.read())
        row = await self._threads.write(self._accounts.create_workspace, body.name, body.id, strict=body.strict)
        return json_response(_workspace_json(row), 201)

    async def workspaces(self, request: web.Request) -> web.Response:
        """GET /admin/workspaces."""
        query = parse(PageQuery, request.query)
        rows = await self._threads.read(self._accounts.workspaces, query.cursor or "", query.limit + 1)
        return json_response(listing(rows, query.limit, _workspace_json, "id"))

    async def create_key(self, request: web.Request) -> web.Response:
        """POST /admin/workspaces/{id}/keys."""
        body = parse(NewKeyBody, await request.read())
        new = NewKey(
            request.match_info["id"],
            body.label,
            expires_at=body.expires_at,
            spend_limit_pico=body.spend_limit_usd,
            limit_reset=body.limit_reset,
            secret=body.secret,
        )
        row, secret = await self._threads.write(self._accounts.create_key, new)
        return json_response(_key_json(row) | {"secret": secret}, 201)

    async def keys(self, request: web.Request) -> web.Response:
        """GET /admin/workspaces/{id}/keys."""
        query, workspace_id = parse(PageQuery, request.query), request.match_info["id"]
        rows = await self._threads.read(self._accounts.keys, workspace_id, query.cursor or "", query.limit + 1)
        return json_response(listing(rows, query.limit, _key_json, "id"))

    async def revoke_key(self, request: web.Request) -> web.Response:
        """DELETE /admin/keys/{key_id}."""
        return json_response(_key_json(await self._threads.write(self._accounts.revoke, request.match_info["key_id"])))

    async def credit(self, request: web.Request) -> web.Response:
        """POST /admin/workspaces/{id}/credits."""
        body = parse(NewCredit, await request.read())
        return await self._post(request, body, body.amount_usd, contra=body.contra)

    async def refund(self, request: web.Request) -> web.Response:
        """POST /admin/workspaces/{id}/refunds."""
        body = parse(NewRefund, await request.read())
        return await self._post(request, body, body.amount_usd, contra="refund", reverses=body.reverses)

    async def adjust(self, request: web.Request) -> web.Response:
        """POST /admin/workspaces/{id}/adjustments."""
        body = parse(NewAdjustment, await request.read())
        return await self._post(request, body, body.amount_usd, contra="adjustment")

    async def _post(
        self, request: web.Request, body: NewCredit | NewRefund | NewAdjustment, amount_pico: int | None, **kind: Any
    ) -> web.Response:
        credit = Credit(request.match_info["id"], amount_pico, body.reference, ACTOR, body.reason, **kind)
        return json_response(entry_json(await self._threads.write(self._ledger.credit, credit)), 201)


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
        "created_at": utc_text(row["created_at"]),
    }
