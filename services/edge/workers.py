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

import aiohttp
import structlog
from yarl import URL

from shared.errors import NoSupplier

log = structlog.get_logger()

RESOLVE_EVERY_S = 5.0  # a new worker is used, and a gone one forgotten, within this time
EJECT_S = 2.0  # a worker that refused a connection is starting or stopping: either takes about so long
CONNECT_TIMEOUT_S = 2.0  # within a cluster a connection takes a millisecond
SILENCE_S = 660.0  # longer than the deadline that a worker keeps by itself, so that its own word comes first


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

    def __init__(self, session: aiohttp.ClientSession, urls: Mapping[str, str]) -> None:
        self._session = session
        self._pools = {provider: _Pool(URL(url)) for provider, url in urls.items()}

    @contextlib.asynccontextmanager
    async def post(
        self, provider: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request to a worker of `provider`; cut off when the block is left early.

        Raises NoSupplier where no worker takes the connection, aiohttp.ClientError where one was lost after that.
        """
        pool = self._pools[provider]
        await self._resolve(pool)
        for address in pool.candidates():
            pool.in_flight[address] += 1
            try:
                url = pool.url.with_host(address).with_path(path)
                async with self._session.post(url, data=body, headers=headers) as response:
                    yield response
                    return
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                pool.ejected_until[address] = monotonic() + EJECT_S
                log.warning("worker_refused", provider=provider, address=address, reason=str(error))
            finally:
                pool.in_flight[address] -= 1
        raise NoSupplier(f"no {provider} worker can be reached")

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


def build_session() -> aiohttp.ClientSession:
    """The client for workers and billing. No cap on connections: each running answer needs one."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15),  # below the workers' own, so none is stale
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_S),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
    )
