"""Calls to a provider: its suppliers in order, retries, and nothing of either once an answer has begun.

An attempt is a function that takes a supplier and returns an answer that has begun, or raises Failed. Whether a call
may be made again is the provider folder's verdict; how soon, and when to leave a supplier alone, is decided here.
"""

import asyncio
import contextlib
import math
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from time import monotonic, time
from typing import TypeVar, cast

import aiohttp
import structlog

from services.workers.breaker import Breaker
from services.workers.memory import BoundedMemory
from services.workers.provider import (
    DISPROVED,
    RETRIES,
    Call,
    Failed,
    Provider,
    R,
    Supplier,
    UpstreamReply,
    UpstreamRequest,
)
from services.workers.settle import Asked, Trail
from shared.errors import ApiError, NoSupplier, UpstreamError, UpstreamTimeout
from shared.events import Attempt
from shared.failpoints import passing
from shared.openai import ChatRequest

log = structlog.get_logger()
T = TypeVar("T")

RETRY_PAUSE_S = 0.25  # the first pause; doubled, and spread by half so that workers do not retry in step
DISPROVED_S = 60.0  # how long an assumption that a provider disproved is not made again
MOST_ATTEMPTS = 100  # on one record, which travels in a message of 64 KiB; embeddings may take thousands of calls
CONNECT_TIMEOUT_S = 10.0  # a healthy provider accepts within milliseconds
IDLE_TIMEOUT_S = 120.0  # models think for long before the first byte, and not every provider sends pings
USER_AGENT = "opentoken/0.1"

_URL = re.compile(r"https?://\S+")
_PROJECT = re.compile(r"(projects/|project_number:)[\w.:-]+")
_TOKEN = re.compile(r"(?<=Bearer )\S+|\b(?:ya29\.|eyJ)[\w.-]+")  # made on the way, so no supplier can list them


def build_session() -> aiohttp.ClientSession:
    """The client for all suppliers of a worker. No cap on connections: each running answer needs one."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )


@dataclass(frozen=True, slots=True)
class Upstream:
    """One provider, the ways to it, and what is kept about them."""

    provider: Provider
    suppliers: Sequence[Supplier]
    session: aiohttp.ClientSession
    memory: BoundedMemory = field(default_factory=BoundedMemory)
    breakers: dict[str, Breaker] = field(default_factory=dict)

    def call(self, request: R, asked: Asked, supplier: Supplier) -> Call[R]:
        """The attempt at a request that goes to this supplier."""
        return Call(request, asked.model, supplier, self.memory, asked.request_id, asked.workspace_id, int(time()))

    async def first_to_begin(self, request: R, attempt: Callable[[Supplier], Awaitable[T]]) -> T:
        """The first attempt that begins an answer. Raises the last one's ApiError, its words scrubbed."""
        last: Failed | None = None
        for supplier in self._in_order(request):
            breaker = self.breakers.setdefault(supplier.name, Breaker())
            if not breaker.admits():
                last = last or Failed(_resting(breaker))
                continue
            try:
                begun = await self._retrying(attempt, supplier)
            except Failed as failure:
                last = failure
                if not _worth_failing_over(failure.error):
                    breaker.succeeded()
                    break
                breaker.failed()
            else:
                breaker.succeeded()
                passing("worker.before_first_byte")
                return begun
        error = last.error if last else NoSupplier("no supplier of this kind is configured for this provider")
        error.message = self.scrub(error.message)
        raise error

    def _in_order(self, request: R) -> list[Supplier]:
        """Who is tried, in which order: those who sell the tier that was asked for come first."""
        if isinstance(request, ChatRequest):
            return sorted(self.suppliers, key=lambda one: request.wanted_tier == "flex" and not one.flex)
        return [supplier for supplier in self.suppliers if supplier.embeds]

    async def _retrying(self, attempt: Callable[[Supplier], Awaitable[T]], supplier: Supplier) -> T:
        retried, disproved = 0, set[str]()  # each assumption once
        while True:
            try:
                return await attempt(supplier)
            except Failed as failure:
                log.warning("attempt_failed", supplier=supplier.name, reason=self.scrub(failure.words))
                if failure.disproves and failure.disproves not in disproved:
                    disproved.add(failure.disproves)
                    continue
                if retried >= min(failure.retries, RETRIES):
                    raise
            await asyncio.sleep(RETRY_PAUSE_S * 2**retried * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            retried += 1

    def failure(self, supplier: Supplier, sent: UpstreamRequest, reply: UpstreamReply) -> Failed:
        """What a refusal means. An assumption that it disproves is remembered as wrong: the next plan does without."""
        failure = self.provider.failure(supplier, reply)
        key = sent.assumes.get(failure.disproves or "")
        if key is None:
            failure.disproves = None
        else:
            self.memory.put(key, DISPROVED, DISPROVED_S)
        return failure

    def scrub(self, words: str) -> str:
        """A provider's words without our credentials, project ids and addresses."""
        for secret in (secret for supplier in self.suppliers for secret in supplier.secrets):
            words = words.replace(secret, "[credential]")
        return _TOKEN.sub("[credential]", _PROJECT.sub(r"\1[project]", _URL.sub("[url]", words)))


def _worth_failing_over(error: ApiError) -> bool:
    """Another supplier may have quota or health that this one lacks; a request that is wrong is wrong everywhere."""
    return error.status >= 500 or error.status == 429


def _resting(breaker: Breaker) -> NoSupplier:
    return NoSupplier(headers={"Retry-After": str(math.ceil(breaker.retry_after_s))})


class Calls:
    """The calls of one request, each noted on its trail."""

    def __init__(self, session: aiohttp.ClientSession, trail: Trail) -> None:
        self._session, self._trail = session, trail

    async def planned(self, plan: Generator[UpstreamRequest, UpstreamReply, T], supplier: Supplier) -> T:
        """Run a plan: make each call that it yields, hand it the reply, return what it returns. Raises Failed."""
        reply: UpstreamReply | Failed | None = None
        try:
            while True:
                with understanding():
                    request = (
                        plan.throw(reply) if isinstance(reply, Failed) else plan.send(cast("UpstreamReply", reply))
                    )
                try:
                    reply = await self.whole(request, supplier)
                except Failed as failure:
                    reply = failure
        except StopIteration as end:
            result: T = end.value
            return result

    async def whole(self, request: UpstreamRequest, supplier: Supplier) -> UpstreamReply:
        """One call, its reply read to the end. Raises Failed where none comes."""
        async with self.begun(request, supplier) as response:
            return await reply_of(response)

    @contextlib.asynccontextmanager
    async def begun(self, request: UpstreamRequest, supplier: Supplier) -> AsyncIterator[aiohttp.ClientResponse]:
        """One call whose reply has begun; it is cut when the block is left before its end. Raises Failed."""
        started, status = monotonic(), None
        try:
            with reading():
                response = await self._session.request(
                    request.method,
                    request.url,
                    data=request.body,
                    headers=request.headers,
                    allow_redirects=False,  # our credentials are for this address alone
                )
            async with response:
                status = response.status
                yield response
        finally:
            spent_s = monotonic() - started
            self._trail.upstream_s += spent_s
            if len(self._trail.attempts) < MOST_ATTEMPTS:
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
def understanding() -> Generator[None]:
    """Turn what a provider's folder trips over, where an answer has a shape that nobody foresaw, into Failed."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        log.exception("answer_not_understood")
        raise Failed(UpstreamError("the provider's answer has an unforeseen shape")) from error


@contextlib.contextmanager
def reading() -> Generator[None]:
    """Turn what can go wrong on a connection into Failed."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise Failed(NoSupplier(), "the provider could not be reached", retries=RETRIES) from error
    except aiohttp.SocketTimeoutError as error:
        raise Failed(UpstreamTimeout(), "the provider went silent") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Failed(NoSupplier(), "upstream closed the connection", retries=RETRIES) from error
