"""The billing service as its clients meet it: over HTTP, on a bus."""

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from services.billing.accounts import Announce
from services.billing.app import build_app
from services.billing.settings import BillingSettings
from shared.bus import AccountBus
from shared.bus.local import LocalBus
from shared.events import Encoded, UsageRecorded

ADMIN, AUDITOR, INTERNAL = "admin-token-for-tests", "auditor-token-for-tests", "internal-token-for-tests"
DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Service:
    """A running service; `call` gives the status and the JSON."""

    client: TestClient[Any, Any]
    bus: AccountBus

    @property
    def app(self) -> web.Application:
        """The application itself."""
        assert isinstance(self.client.server, TestServer)
        return self.client.server.app

    async def call(self, method: str, path: str, body: Any = None, token: str | None = ADMIN) -> tuple[int, Any]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        content = {"data": body} if isinstance(body, bytes | io.BytesIO) else {"json": body}
        async with self.client.request(method, path, headers=headers, **content) as answer:
            assert "x-request-id" in answer.headers
            return answer.status, await answer.json()

    async def get(self, path: str, status: int = 200) -> Any:
        found, answer = await self.call("GET", path)
        assert found == status, answer
        return answer

    async def post(self, path: str, body: Any, status: int = 201, token: str = ADMIN) -> Any:
        found, answer = await self.call("POST", path, body, token)
        assert found == status, answer
        return answer

    async def publish(self, *events: UsageRecorded) -> None:
        for event in events:
            await self.bus.publish(Encoded.of(event, "test"))


@contextlib.asynccontextmanager
async def running(
    database_url: str, bus: AccountBus | None = None, announce: Announce | None = None, **settings: Any
) -> AsyncIterator[Service]:
    """A service on a migrated database, ready."""
    made: Any = {
        "database_url": database_url,
        "admin_token": ADMIN,
        "auditor_token": AUDITOR,
        "internal_token": INTERNAL,
        **settings,
    }
    bus = bus or LocalBus()
    told = {} if announce is None else {"announce": announce}
    async with TestClient(TestServer(build_app(BillingSettings(**made), bus, **told))) as client:
        service = Service(client, bus)
        await until(lambda: _ready(service))
        yield service


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds; fail past the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not await condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)


async def _ready(service: Service) -> bool:
    return (await service.call("GET", "/ready", token=None))[0] == 200
