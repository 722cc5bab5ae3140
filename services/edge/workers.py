"""Which worker takes a request: the one with the fewest in flight, of those that the provider's names resolve to.

Names are resolved again every few seconds, so workers come and go without the edge being told. A connection that is
refused moves on to the next worker, since nothing was sent. A worker that refused one, or said that it drains, comes
last for a while: it is asked only where no other takes the request.
"""

import asyncio
import contextlib
import socket
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

import structlog
from yarl import URL

from services.edge.client import Address, Client, Connection
from services.edge.reply import Reply
from shared.drain import BREAK_OFF, LINGER_S, BreakOff
from shared.errors import NoSupplier

log = structlog.get_logger()

RESOLVE_EVERY_S = 5.0  # a new worker is used, and a gone one forgotten, within this time
REFUSED_S = 2.0  # a worker that refused a connection is starting or stopping: either takes about so long
BREAK_OFF_S = 5.0  # a settlement waits a second for the broker, then for one write to the disk
TICK_S = 0.05  # between looks at what still runs
DRAINING_S = LINGER_S + 4.0  # by then it takes no connections any more, so none meets the moment in which it stops


@dataclass(slots=True)
class _Pool:
    """The workers of one provider."""

    urls: Sequence[URL]
    found: dict[URL, list[Address]] = field(default_factory=dict)
    addresses: list[Address] = field(default_factory=list)
    resolved_at: float = 0.0
    avoided_until: dict[Address, float] = field(default_factory=dict)
    in_flight: Counter[Address] = field(default_factory=Counter)

    def candidates(self) -> list[Address]:
        """Least busy first; those that are avoided come last, the one to come back first before the others."""
        now = monotonic()
        return sorted(self.addresses, key=lambda one: (max(self.avoided_until.get(one, now), now), self.in_flight[one]))


class Workers:
    """All workers, by provider; a provider's URL, or each of its URLs, names any number of its workers."""

    def __init__(self, urls: Mapping[str, str | Sequence[str]]) -> None:
        self._client = Client()
        self._running: dict[str, Address] = {}
        self._ending = False
        self._pools = {
            provider: _Pool([URL(one) for one in ([named] if isinstance(named, str) else named)])
            for provider, named in urls.items()
        }

    async def break_off(self, headers: Mapping[str, str]) -> None:
        """This edge ends. Have what still runs end now, with its worker's last words, and at no cost: else the worker
        would take it for the client who left. Returns when all that has ended, or after BREAK_OFF_S.
        """
        self._ending = True
        if not self._running:
            return
        log.warning("answers_broken_off", count=len(self._running))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BREAK_OFF_S):
                while self._running:  # told again and again: a request may reach its worker after the word
                    await asyncio.gather(*(self._tell(*one, headers) for one in self._by_address().items()))
                    await asyncio.sleep(TICK_S)
        for address, request_ids in self._by_address().items():
            log.warning("answers_cut", address=address[0], port=address[1], count=len(request_ids))

    def _by_address(self) -> Mapping[Address, list[str]]:
        by_address = defaultdict[Address, list[str]](list)
        for request_id, address in self._running.items():
            by_address[address].append(request_id)
        return by_address

    async def _tell(self, address: Address, request_ids: list[str], headers: Mapping[str, str]) -> None:
        body = BreakOff(request_ids=request_ids).model_dump_json().encode()
        with contextlib.suppress(OSError):  # a worker that drains as well takes a cut as the word
            connection = await self._client.connection(address)
            async with self._client.post(connection, BREAK_OFF, headers, body) as reply:
                await reply.read()

    @contextlib.asynccontextmanager
    async def post(self, provider: str, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        """Send a request to a worker of `provider`; cut off when the block is left early. `x-request-id` names it.

        Raises NoSupplier where no worker takes the connection, or this edge ends; WorkerGone where one was lost later.
        """
        pool, request_id = self._pools[provider], headers["x-request-id"]
        await self._resolve(pool)
        if self._ending:
            raise NoSupplier("this edge stops: send the request again")
        for address in pool.candidates():
            pool.in_flight[address] += 1
            self._running[request_id] = address
            try:
                if (connection := await self._connection(pool, address)) is not None:
                    async with self._client.post(connection, path, headers, body) as reply:
                        if reply.headers.get("connection") == "close":
                            self._avoid(pool, address, DRAINING_S)
                        yield reply
                    return
            finally:
                pool.in_flight[address] -= 1
                del self._running[request_id]
        raise NoSupplier(f"no {provider} worker can be reached")

    async def _connection(self, pool: _Pool, address: Address) -> Connection | None:
        try:
            return await self._client.connection(address)
        except OSError as error:
            self._avoid(pool, address, REFUSED_S)
            log.warning("worker_refused", address=address[0], port=address[1], reason=str(error))
            return None

    def _avoid(self, pool: _Pool, address: Address, for_s: float) -> None:
        pool.avoided_until[address] = monotonic() + for_s
        self._client.forget(address)

    def close(self) -> None:
        """Close the connections that carry nothing."""
        self._client.close()

    async def ready(self, provider: str) -> None:
        """Raise where the provider's names resolve to no worker."""
        pool = self._pools[provider]
        await self._resolve(pool)
        if not pool.addresses:
            raise NoSupplier(f"no {provider} worker is known")

    async def _resolve(self, pool: _Pool) -> None:
        if pool.addresses and monotonic() - pool.resolved_at < RESOLVE_EVERY_S:
            return
        pool.resolved_at, known = monotonic(), pool.addresses
        for url in pool.urls:
            await self._look_up(pool, url)
        pool.addresses = sorted({address for found in pool.found.values() for address in found})
        for gone in set(known).difference(pool.addresses):
            self._client.forget(gone)

    async def _look_up(self, pool: _Pool, url: URL) -> None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                url.host, url.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except OSError as error:  # the addresses known so far are the best there is
            log.warning("worker_name_unresolved", host=url.host, reason=str(error))
            return
        pool.found[url] = [(str(address[4][0]), int(address[4][1])) for address in found]
