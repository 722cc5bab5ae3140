"""Rate limits of a key, requests and tokens a minute: the last gate before a worker, and a bucket for each.

A bucket holds a minute's worth, so in any t seconds a key gets at most limit + limit × t / 60. Each edge keeps its
own buckets and gives its share, limit / edges. Tokens are taken by an estimate and put right once the usage is known.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic_ns

from aiohttp import web

from services.edge.accounts import Standing
from shared.errors import RequestRateExceeded, TokenRateExceeded

MINUTE_NS = 60 * 10**9
MS_NS = 10**6
MOST_KEYS = 10_000  # some 8 MB; the longest unused is forgotten first, and begins with full buckets again
BYTES_PER_TOKEN = 4  # of English text, as in every estimate of ours
EXCEEDED = {"requests": RequestRateExceeded, "tokens": TokenRateExceeded}

Headers = Mapping[str, str]
HEADERS: web.RequestKey[Headers] = web.RequestKey("rate_limit_headers", Mapping)


@dataclass(slots=True)
class Bucket:
    """What of `limit` is used: in units × MINUTE_NS, so that it drains by `limit` a nanosecond, exact in integers."""

    limit: int
    at_ns: int
    used: int = 0

    def move(self, limit: int, now_ns: int) -> None:
        """Drain until now; from now on by this limit."""
        self.used = max(0, self.used - self.limit * (now_ns - self.at_ns))
        self.limit, self.at_ns = limit, now_ns

    def wait_ns(self, amount: int) -> int:
        """How long until this amount fits; 0: it does."""
        return max(0, _ceil(self.used + (amount - self.limit) * MINUTE_NS, self.limit))

    def take(self, amount: int) -> None:
        """Use this amount, or give a negative one back. More than fits is owed, and drains first."""
        self.used = max(0, self.used + amount * MINUTE_NS)

    @property
    def left(self) -> int:
        """How much fits."""
        return max(0, self.limit - _ceil(self.used, MINUTE_NS))

    @property
    def reset_ns(self) -> int:
        """How long until all of the limit fits."""
        return _ceil(self.used, self.limit)


Buckets = dict[str, Bucket]
"""Those of a key by the name of what they limit; what has no limit has none."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that passed: what to say in its answer's headers, and its estimate, to be settled once."""

    headers: Headers
    tokens: Bucket | None = None
    estimate: int = 0

    def settle(self, tokens: int) -> None:
        """Put the estimate right by what the request used."""
        if self.tokens is not None:
            self.tokens.take(tokens - self.estimate)


class Rates:
    """The buckets of all limited keys. `clock` gives nanoseconds that never go back."""

    def __init__(self, clock: Callable[[], int] = monotonic_ns) -> None:
        self._clock = clock
        self._keys: OrderedDict[str, Buckets] = OrderedDict()

    def admit(self, standing: Standing, tokens: int, edges: int = 1) -> Admitted:
        """Take a request and its estimated tokens from the key's buckets; of an estimate above the limit, the limit.

        Raises RequestRateExceeded, TokenRateExceeded; then nothing is taken.
        """
        limits = {"requests": standing.requests_per_minute, "tokens": standing.tokens_per_minute}
        limited = {name: limit for name, limit in limits.items() if limit is not None}
        if not limited:
            return Admitted({})
        buckets = self._buckets(standing.key_id, {name: max(1, limit // edges) for name, limit in limited.items()})
        amounts = {name: min(1 if name == "requests" else tokens, bucket.limit) for name, bucket in buckets.items()}
        waits_ns = {name: bucket.wait_ns(amounts[name]) for name, bucket in buckets.items()}
        longest = max(waits_ns, key=waits_ns.__getitem__)
        if wait_ns := waits_ns[longest]:
            raise EXCEEDED[longest](headers={**_headers(limited, buckets), **_retry(wait_ns)})
        for name, bucket in buckets.items():
            bucket.take(amounts[name])
        return Admitted(_headers(limited, buckets), buckets.get("tokens"), amounts.get("tokens", 0))

    def _buckets(self, key_id: str, shares: Mapping[str, int]) -> Buckets:
        now_ns, known = self._clock(), self._keys.pop(key_id, {})
        buckets = {name: known.get(name) or Bucket(share, now_ns) for name, share in shares.items()}
        for name, bucket in buckets.items():
            bucket.move(shares[name], now_ns)
        self._keys[key_id] = buckets
        if len(self._keys) > MOST_KEYS:
            self._keys.popitem(last=False)
        return buckets


async def stamp(request: web.Request, response: web.StreamResponse) -> None:
    """A signal for `on_response_prepare`: every answer to an admitted request says what is left."""
    response.headers.update(request.get(HEADERS, {}))


def _headers(limits: Mapping[str, int], buckets: Buckets) -> dict[str, str]:
    """OpenAI's headers: the key's whole limit, and what is left of it at this edge."""
    headers = dict[str, str]()
    for name, bucket in buckets.items():
        headers[f"x-ratelimit-limit-{name}"] = str(limits[name])
        headers[f"x-ratelimit-remaining-{name}"] = str(bucket.left)
        headers[f"x-ratelimit-reset-{name}"] = duration(bucket.reset_ns)
    return headers


def _retry(wait_ns: int) -> dict[str, str]:
    return {"Retry-After": str(_ceil(wait_ns, 10**9)), "retry-after-ms": str(_ceil(wait_ns, MS_NS))}


def duration(ns: int) -> str:
    """As OpenAI writes it: "0s", "20ms", "8.64s", "6m0s"."""
    ms = _ceil(ns, MS_NS)
    if 0 < ms < 1000:
        return f"{ms}ms"
    minutes, rest_ms = divmod(ms, 60_000)
    seconds = f"{rest_ms // 1000}.{rest_ms % 1000:03d}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)
