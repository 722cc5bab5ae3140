"""What the edge asks of the billing service."""

import io
from typing import Any, Final

import aiohttp
import orjson
from pydantic import ValidationError

from shared.errors import BillingUnavailable, NotFound
from shared.leases import Answers, Asks

TIMEOUT_S = 5.0  # an answer takes milliseconds; a client should not wait longer than this to learn that it fails
IDLE_S = 5.0  # an unused connection is closed, before a billing service that drains would (LINGER_S)
RETRY_AFTER: Final = {"Retry-After": "5"}


def build_session() -> aiohttp.ClientSession:
    """The client for billing."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(keepalive_timeout=IDLE_S),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class Billing:
    """The billing service's internal API."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session, self._url = session, url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    async def standing(self, digest: str) -> dict[str, Any] | None:
        """The standing of the key with this SHA-256 digest; None where no key has it. Raises BillingUnavailable."""
        return await self._call("POST", "/internal/standing", {"digest": digest})

    async def leases(self, asks: Asks) -> Answers:
        """The answer to what this edge tells of its leases, and asks for. Raises BillingUnavailable."""
        answer = await self._call("POST", "/internal/leases", asks.model_dump())
        try:
            return Answers.model_validate(answer)
        except ValidationError as error:
            raise BillingUnavailable("billing is of another version", headers=RETRY_AFTER) from error

    async def generation(self, request_id: str, workspace_id: str) -> dict[str, Any]:
        """The settled record of one of this workspace's requests. Raises BillingUnavailable, NotFound."""
        path = f"/v1/generations/{request_id}?workspace_id={workspace_id}"
        return _found(await self._call("GET", path), "no settled request of yours has this id")

    async def claim(self, claim: dict[str, Any]) -> dict[str, Any]:
        """Take an Idempotency-Key for a request: in which state it was found. Raises BillingUnavailable."""
        found = await self._call("POST", "/internal/claims", claim)
        if found is None:
            raise BillingUnavailable("billing keeps no claims yet", headers=RETRY_AFTER)
        return found

    async def keep(self, request_id: str, answer: bytes) -> None:
        """Keep the answer of a request that holds an Idempotency-Key. Raises BillingUnavailable."""
        await self._call("PUT", f"/internal/claims/{request_id}/answer", io.BytesIO(answer))  # sent in pieces

    async def keep_none(self, request_id: str) -> None:
        """The answer of a request that holds an Idempotency-Key is too large to keep. Raises BillingUnavailable."""
        await self._call("DELETE", f"/internal/claims/{request_id}/answer")

    async def release(self, request_id: str) -> None:
        """Free the Idempotency-Key of a request that cost nothing. Raises BillingUnavailable."""
        await self._call("DELETE", f"/internal/claims/{request_id}")

    async def ready(self) -> None:
        """Raise where billing does not answer."""
        await self._call("GET", "/health")

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | io.BytesIO | None = None
    ) -> dict[str, Any] | None:
        data = orjson.dumps(body) if isinstance(body, dict) else body
        try:
            async with self._session.request(method, self._url + path, data=data, headers=self._headers) as response:
                if response.status == 404:
                    return None
                if response.status != 200:
                    raise BillingUnavailable(f"billing answered {response.status}", headers=RETRY_AFTER)
                answer: dict[str, Any] = orjson.loads(await response.read())
                return answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BillingUnavailable("billing cannot be reached; try again", headers=RETRY_AFTER) from error


def _found(answer: dict[str, Any] | None, otherwise: str) -> dict[str, Any]:
    if answer is None:
        raise NotFound(otherwise)
    return answer
