"""`cachedContents`: prefixes kept for their owner until they expire (ai.google.dev/api/caching).

Who asks for a cache that is gone, or another's, is told the same. Nothing is kept past its end but to be swept away.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import time
from typing import Annotated, Any

from pydantic import Field

from services.simulator.google.errors import Refusal
from services.simulator.google.models import CHAT_MODELS, Gemini
from services.simulator.google.replies import told
from services.simulator.google.request import Member, Prefix, parse, tokens_by_modality
from services.simulator.google.tenants import Tenant
from services.simulator.script import Call, Script
from shared.events import utc_text

DEFAULT_TTL_S = 3600.0
MAX_CACHES = 10_000  # of all tenants; the oldest goes first
BESIDE = ("system_instruction", "tools", "tool_config")  # what a request leaves to its cache

Ttl = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?s$")]


class Lifetime(Member):
    """How long a cache is kept from now on: the body of a PATCH."""

    ttl: Ttl = f"{DEFAULT_TTL_S}s"

    @property
    def seconds(self) -> float:
        """The same as a number."""
        return float(self.ttl.removesuffix("s"))


class CreateRequest(Prefix, Lifetime):
    """The body of a POST."""

    model: str
    display_name: Annotated[str, Field(max_length=128)] = ""


@dataclass(frozen=True, slots=True)
class Cache:
    """A prefix that is kept. Times are Unix times."""

    name: str
    owner: str
    request: CreateRequest
    tokens: int
    created: float
    updated: float
    expires: float

    @property
    def prefix(self) -> dict[str, Any]:
        """The members that the request which uses it has left to it."""
        return {name: getattr(self.request, name) for name in BESIDE}

    def listing(self) -> dict[str, Any]:
        """Its metadata on the wire; what was cached is never told."""
        return {
            "name": self.name,
            "model": self.request.model,
            "displayName": self.request.display_name,
            "createTime": _text(self.created),
            "updateTime": _text(self.updated),
            "expireTime": _text(self.expires),
            "usageMetadata": {"totalTokenCount": self.tokens},
        }


class Caches:
    """The caches of all tenants."""

    def __init__(self) -> None:
        self._caches: OrderedDict[str, Cache] = OrderedDict()

    def create(self, call: Call, tenant: Tenant) -> Script:
        """`POST`. Raises Refusal."""
        request = parse(CreateRequest, call.body)
        model = next((one for one in CHAT_MODELS.values() if tenant.model_name(one.id) == request.model), None)
        if model is None:
            raise Refusal(404, f"{request.model} is not found, or is not supported for createCachedContent.")
        tokens = sum(tokens_by_modality(request).values())
        if tokens < model.min_cached:
            raise Refusal(
                400,
                f"Cached content is too small. total_token_count={tokens}, min_total_token_count={model.min_cached}",
            )
        self._sweep()
        now, name = time(), f"{tenant.parent}cachedContents/{call.id}"
        cache = Cache(name, tenant.owner, request, tokens, now, now, now + request.seconds)
        self._caches[name] = cache
        if len(self._caches) > MAX_CACHES:
            self._caches.popitem(last=False)
        return told(call, cache.listing())

    def listed(self, call: Call, tenant: Tenant) -> Script:
        """`GET` of all; one page."""
        self._sweep()
        mine = [cache.listing() for cache in self._caches.values() if cache.owner == tenant.owner]
        return told(call, {"cachedContents": mine})

    def read(self, call: Call, tenant: Tenant) -> Script:
        """`GET` of one. Raises Refusal."""
        return told(call, self._named(call, tenant).listing())

    def prolonged(self, call: Call, tenant: Tenant) -> Script:
        """`PATCH`, of the lifetime alone. Raises Refusal."""
        cache, lifetime = self._named(call, tenant), parse(Lifetime, call.body)
        now = time()
        self._caches[cache.name] = cache = replace(cache, updated=now, expires=now + lifetime.seconds)
        return told(call, cache.listing())

    def deleted(self, call: Call, tenant: Tenant) -> Script:
        """`DELETE`. Raises Refusal."""
        del self._caches[self._named(call, tenant).name]
        return told(call, {})

    def opened(self, tenant: Tenant, name: str, model: Gemini) -> Cache:
        """The cache that a request names. Raises Refusal."""
        cache = self._alive(tenant, name)
        if cache.request.model != tenant.model_name(model.id):
            raise Refusal(
                400,
                f"Model used by GenerateContent request ({tenant.model_name(model.id)}) and CachedContent "
                f"({cache.request.model}) has to be the same.",
            )
        return cache

    def _named(self, call: Call, tenant: Tenant) -> Cache:
        return self._alive(tenant, f"{tenant.parent}cachedContents/{call.path['cache']}")

    def _alive(self, tenant: Tenant, name: str) -> Cache:
        cache = self._caches.get(name)
        if cache is None or cache.owner != tenant.owner or cache.expires <= time():
            raise _gone(tenant, name)
        return cache

    def _sweep(self) -> None:
        now = time()
        for name in [name for name, cache in self._caches.items() if cache.expires <= now]:
            del self._caches[name]


def _gone(tenant: Tenant, name: str) -> Refusal:
    if tenant.location is None:
        return Refusal(403, "CachedContent not found (or permission denied)")
    return Refusal(404, f"Not found: cached content metadata for {name.rpartition('/')[2]}.")


def _text(moment: float) -> str:
    return utc_text(datetime.fromtimestamp(moment, UTC))
