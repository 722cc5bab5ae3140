"""`python -m tests.bench.admission`: what it takes to let a request in, for 10,000 keys of 1,000 workspaces.

The edge's own code, in one process; billing is played, and lends what is wanted. A request is its key looked up, its
cost estimated, a hold taken, and settled. What is printed: the time of each, how many needed a call, and the memory.
"""

import asyncio
import hashlib
import os
import random
import sys
from time import perf_counter_ns
from typing import Any, cast

import uvloop

from services.edge.accounts import Accounts
from services.edge.billing import Billing
from services.edge.credit import Credit
from services.edge.estimate import chat_pico
from services.edge.leases import Wanted
from shared import catalog
from shared.ids import new_id
from shared.leases import Answers, Asks, Lent
from shared.openai import ChatRequest
from tests.bench.processes import rss_mib

WORKSPACES, KEYS_EACH, REQUESTS = 1_000, 10, 100_000
COST_SHARE = 10  # a request costs a tenth of what was held for it
GOAL_US, GOAL_PERCENT = 100.0, 99.0


class Lender:
    """Billing: it knows every key, and has all the credit there is."""

    def __init__(self, keys: list[str]) -> None:
        self.calls = 0
        self._owners = {hashlib.sha256(key.encode()).hexdigest(): number for number, key in enumerate(keys)}

    async def standing(self, digest: str) -> dict[str, Any]:
        self.calls += 1
        number = self._owners[digest]
        limit = str(10**15) if number % 2 else None  # every other key has a limit of its own
        return {
            "key_id": f"key-{number}", "workspace_id": f"workspace-{number // KEYS_EACH}", "label": None,
            "expires_at": None, "revoked_at": None, "strict": False, "spend_limit_pico": limit, "limit_reset": None,
            "requests_per_minute": None, "tokens_per_minute": None,
        }  # fmt: skip

    async def leases(self, asks: Asks) -> Answers:
        self.calls += 1
        await asyncio.sleep(0.001)
        return Answers(lent=[Lent(granted_pico=max(ask.wanted_pico, ask.needed_pico)) for ask in asks.asks], settled={})


async def measure() -> None:
    """Print the figures."""
    keys = [f"sk-optk-{new_id()}" for _ in range(WORKSPACES * KEYS_EACH)]
    lender = Lender(keys)
    model = catalog.load()["anthropic/claude-haiku-4-5"]
    request = ChatRequest.model_validate({"model": model.id, "messages": [{"role": "user", "content": "Hello"}]})
    accounts, credit = Accounts(cast("Billing", lender)), Credit(cast("Billing", lender))
    accounts.began()
    before_mib, choose = rss_mib(os.getpid()), random.Random(1)

    async def one(key: str) -> int:
        begun = perf_counter_ns()
        standing = await accounts.standing(key)
        amount = chat_pico(request, model, 1_000, strict=standing.strict)
        limited = standing.spend_limit_pico is not None
        wanted = Wanted("id", standing.workspace_id, standing.key_id, limited, amount, strict=False)
        hold = await credit.admit(wanted)
        taken = perf_counter_ns() - begun
        credit.settle(hold, amount // COST_SHARE)
        return taken

    for key in keys:
        await one(key)
    after_mib, first_calls = rss_mib(os.getpid()), lender.calls
    times, waited = list[int](), 0
    for number in range(REQUESTS):
        calls = lender.calls
        times.append(await one(choose.choice(keys)))
        waited += lender.calls > calls
        if number % 100 == 0:
            await asyncio.sleep(0)  # as a server that reads its sockets
    await credit.close()
    times.sort()
    p50, p99 = times[len(times) // 2] / 1000, times[len(times) * 99 // 100] / 1000
    without = 100 * (1 - waited / REQUESTS)
    sys.stdout.write(
        f"{len(keys):,} keys of {WORKSPACES:,} workspaces, {REQUESTS:,} admissions\n"
        f"admission p50 {p50:.1f} us, p99 {p99:.1f} us (goal < {GOAL_US:.0f} us)\n"
        f"without a call {without:.2f} % (goal >= {GOAL_PERCENT:.0f} %); calls {lender.calls - first_calls:,}\n"
        f"memory of keys and leases {after_mib - before_mib:.1f} MiB\n"
    )


if __name__ == "__main__":
    uvloop.run(measure())
