"""Which worker takes a request: the one with the fewest in flight, of those that the provider's name resolves to.

Names are resolved again every few seconds, so workers come and go without the edge being told. A connection that is
refused moves on to the next worker, since nothing was sent, and the one that refused is left alone for a while.
"""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from time import monotonic

import structlog
from yarl import URL

from services.edge.client import Client, Connection, Reply
from shared.errors import NoSupplier

log = structlog.get_logger()

RESOLVE_EVERY_S = 5.0  # a new worker is used, and a gone one forgotten, within this time
EJECT_S = 2.0  # a worker that refused a connection is starting or stopping: either takes about so long


@dataclass(slots=True)
class _Pool:
    """The workers of one provider."""

    url: URL
    addresses: list[str] = field(default_factory=list)
    resolved_at: float = 0.0
    ejected_until: dict[str, float] = field(default_factory=dict)
    in_flight: Counter[str] = field(default_factory=Counter)

    def candidates(self) -> list[str]:
        """Least busy first; those that refused lately come last rather than not at all."""
        now = monotonic()
        return sorted(self.addresses, key=lambda one: (self.ejected_until.get(one, 0) > now, self.in_flight[one]))


class Workers:
    """All workers, by provider; a provider's URL names all of its workers."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._client = Client()
        self._pools = {provider: _Pool(URL(url)) for provider, url in urls.items()}

    @contextlib.asynccontextmanager
    async def post(self, provider: str, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        """Send a request to a worker of `provider`; cut off when the block is left early.

        Raises NoSupplier where no worker takes the connection, WorkerGone where one was lost after that.
        """
        pool = self._pools[provider]
        await self._resolve(pool)
        for address in pool.candidates():
            url = pool.url.with_host(address).with_path(path)
            pool.in_flight[address] += 1
            try:
                if (connection := await self._connection(pool, address)) is not None:
                    async with self._client.post(connection, url, headers, body) as reply:
                        yield reply
                    return
            finally:
                pool.in_flight[address] -= 1
        raise NoSupplier(f"no {provider} worker can be reached")

    async def _connection(self, pool: _Pool, address: str) -> Connection | None:
        try:
            return await self._client.connection(address, pool.url.port or 80)
        except OSError as error:
            pool.ejected_until[address] = monotonic() + EJECT_S
            log.warning("worker_refused", name=pool.url.host, address=address, reason=str(error))
            return None

    def close(self) -> None:
        """Close the connections that carry nothing."""
        self._client.close()

    async def ready(self, provider: str) -> None:
        """Raise where the provider's name resolves to no worker."""
        pool = self._pools[provider]
        await self._resolve(pool)
        if not pool.addresses:
            raise NoSupplier(f"no {provider} worker is known")

    async def _resolve(self, pool: _Pool) -> None:
        if pool.addresses and monotonic() - pool.resolved_at < RESOLVE_EVERY_S:
            return
        pool.resolved_at = monotonic()
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                pool.url.host, pool.url.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except OSError as error:  # the addresses known so far are the best there is
            log.warning("worker_name_unresolved", host=pool.url.host, reason=str(error))
            return
        pool.addresses = sorted({str(address[4][0]) for address in found})
