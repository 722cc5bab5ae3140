"""Calls to a provider: its suppliers in order, retries, and nothing of either once an answer has begun.

An attempt is a function that takes a supplier and returns an answer that has begun, or raises Failed. What may be
retried is the provider folder's verdict; how often and how soon is decided here.
"""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import aiohttp
import structlog

from services.workers.provider import Failed, Provider, Supplier, UpstreamReply, UpstreamRequest
from services.workers.settle import Trail
from shared.errors import ApiError, NoSupplier, UpstreamTimeout
from shared.events import Attempt

log = structlog.get_logger()
T = TypeVar("T")

RETRIES = 2  # more would only pile up on a provider that is overloaded
RETRY_PAUSE_S = 0.25  # the first pause; doubled, and spread by half so that workers do not retry in step
CONNECT_TIMEOUT_S = 10.0  # a healthy provider accepts within milliseconds
IDLE_TIMEOUT_S = 120.0  # models think for long before the first byte, and not every provider sends pings
USER_AGENT = "opentoken/0.1"

_URL = re.compile(r"https?://\S+")
_PROJECT = re.compile(r"projects/[\w.:-]+")


def build_session() -> aiohttp.ClientSession:
    """The client for all suppliers of a worker. No cap on connections: each running answer needs one."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        auto_decompress=True,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


@dataclass(frozen=True, slots=True)
class Upstream:
    """One provider, the ways to it, and the client for them."""

    provider: Provider
    suppliers: Sequence[Supplier]
    session: aiohttp.ClientSession

    async def first_to_begin(self, attempt: Callable[[Supplier], Awaitable[T]]) -> T:
        """The first attempt that begins an answer. Raises the last one's ApiError, its words scrubbed."""
        last = Failed(NoSupplier("no credentials are configured for this provider"))
        for supplier in self.suppliers:
            try:
                return await self._retrying(attempt, supplier)
            except Failed as failed:
                last = failed
            if not _worth_failing_over(last.error):
                break
        last.error.message = self.scrub(last.error.message)
        raise last.error

    async def _retrying(self, attempt: Callable[[Supplier], Awaitable[T]], supplier: Supplier) -> T:
        for retry in range(RETRIES + 1):
            try:
                return await attempt(supplier)
            except Failed as failed:
                log.warning("attempt_failed", supplier=supplier.name, reason=self.scrub(failed.words))
                if not failed.retry or retry == RETRIES:
                    raise
            await asyncio.sleep(RETRY_PAUSE_S * 2**retry * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        raise AssertionError("the last retry returns or raises")

    def scrub(self, words: str) -> str:
        """A provider's words without our credentials, project ids and addresses."""
        for secret in (value for supplier in self.suppliers for value in supplier.headers.values()):
            words = words.replace(secret, "[credential]")
        return _PROJECT.sub("projects/[project]", _URL.sub("[url]", words))


def _worth_failing_over(error: ApiError) -> bool:
    """Another supplier may have quota or health that this one lacks; a request that is wrong is wrong everywhere."""
    return error.status >= 500 or error.status == 429


class Calls:
    """The calls of one request, each noted on its trail."""

    def __init__(self, session: aiohttp.ClientSession, trail: Trail) -> None:
        self._session, self._trail = session, trail

    async def planned(self, plan: Generator[UpstreamRequest, UpstreamReply, T], supplier: Supplier) -> T:
        """Run a plan: make each call that it yields, hand it the reply, return what it returns. Raises Failed."""
        try:
            call = next(plan)
            while True:
                call = plan.send(await self.whole(call, supplier))
        except StopIteration as end:
            result: T = end.value
            return result

    async def whole(self, call: UpstreamRequest, supplier: Supplier) -> UpstreamReply:
        """One call, its reply read to the end. Raises Failed where none comes."""
        async with self.begun(call, supplier) as response:
            return await reply_of(response)

    @contextlib.asynccontextmanager
    async def begun(self, call: UpstreamRequest, supplier: Supplier) -> AsyncIterator[aiohttp.ClientResponse]:
        """One call whose reply has begun; it is cut when the block is left before its end. Raises Failed."""
        started, status = monotonic(), None
        try:
            with reading():
                response = await self._session.request(call.method, call.url, data=call.body, headers=call.headers)
            async with response:
                status = response.status
                yield response
        finally:
            spent_s = monotonic() - started
            self._trail.upstream_s += spent_s
            attempt = Attempt(supplier=supplier.name, status=status, duration_ms=round(spent_s * 1000))
            self._trail.attempts.append(attempt)


async def reply_of(response: aiohttp.ClientResponse) -> UpstreamReply:
    """A reply that has begun, read to its end. Raises Failed."""
    with reading():
        body = await response.read()
    return UpstreamReply(response.status, lower(response), body)


def lower(response: aiohttp.ClientResponse) -> dict[str, str]:
    """The headers of a reply, as providers' folders expect them."""
    return {name.lower(): value for name, value in response.headers.items()}


@contextlib.contextmanager
def reading() -> Generator[None]:
    """Turn what can go wrong on a connection into Failed."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise Failed(NoSupplier(), "the provider could not be reached", retry=True) from error
    except aiohttp.SocketTimeoutError as error:
        raise Failed(UpstreamTimeout(), "the provider went silent") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Failed(NoSupplier(), "upstream closed the connection", retry=True) from error
