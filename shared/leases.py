"""What edge and billing tell each other about credit that is lent, so that no request needs a call.

A lease belongs to one edge: a part of a workspace's credit and, for each key with a spend limit, a part of what that
key may still spend. Every amount is a total since the lease began, and only grows. So an ask or an answer that is lost,
repeated, late or overtaken changes nothing: the larger number is the newer one.

All that a key spends under a lease id counts against its part of it. So under one id a key has a limit throughout, or
never: when its limit is set or taken away, the edge begins another.
"""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

TTL_S: Final = 60.0  # how long an edge may spend what it has without hearing from billing; it asks every 10 s
FLOOR_PICO: Final = 10**11  # 0.10 USD: what is lent at least while there is plenty, so that small spenders rarely ask
MAX_ASKS: Final = 200  # in one call: a transaction of some 40 ms, for which requests that wait for credit wait, too
MAX_PENDING: Final = 500  # in one call; the others are asked about in the next

Pico = Annotated[int, Field(ge=0, lt=2**62)]
Id = Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Ask(_Wire):
    """How far an edge is with a lease, and what it would like to have. `key_id` None: on the workspace's credit.

    `wanted_pico` is what the grant should come to; `needed_pico` what it must come to for a request that waits, or
    nothing is granted at all, unless `less_will_do`. `final`: the edge will spend nothing more of it.
    """

    lease_id: Id
    workspace_id: str
    key_id: str | None = None
    used_pico: Pico
    returned_pico: Pico
    wanted_pico: Pico = 0
    needed_pico: Pico = 0
    less_will_do: bool = False
    final: bool = False


class Lent(_Wire):
    """What billing says to an ask: what was granted since the lease began, good for `ttl_s` from when it was asked.

    `short`: what was needed is not there; `recalled`: but others hold some, and are asked to give it back. `scarce`:
    give back at once what is not in use. `closed`: billing knows no such lease any more; begin another. `edges`: how
    many spend from the workspace now, this one included.
    """

    granted_pico: int
    ttl_s: float = TTL_S
    short: bool = False
    recalled: bool = False
    scarce: bool = False
    closed: bool = False
    edges: Annotated[int, Field(ge=1)] = 1


class Asks(_Wire):
    """POST /internal/leases. `pending`: requests whose end the edge did not see: is their cost known by now?"""

    edge: Id
    asks: Annotated[list[Ask], Field(max_length=MAX_ASKS)]
    pending: Annotated[list[Id], Field(max_length=MAX_PENDING)] = []


class Answers(_Wire):
    """The answer: to each ask in its order, and the costs in pico-dollars of those requests that are on record."""

    lent: list[Lent]
    settled: dict[str, int]
