"""The simulated Google, a worker whose suppliers come from its settings as in production, and what either shows."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import SecretStr

from services.workers.google import PROVIDER
from services.workers.google.vertex import Settings
from shared.events import UsageRecorded
from shared.money import Rates, Tokens, cost_pico
from tests.unit.simulator.peers import Peer
from tests.unit.simulator.vertex import PROJECT, KeyPair, token
from tests.unit.workers.running import CATALOG, Answer, Worker, worker

EMBEDDINGS = "/v1/embeddings"
FLASH = "google/gemini-3-flash"
PREFIX_TOKENS = 1024  # the least that this model caches
POLICY = "x" * (4 * PREFIX_TOKENS)


@dataclass(frozen=True, slots=True)
class Google:
    """A running simulator, and the key file of a service account that it was told of."""

    url: str
    session: aiohttp.ClientSession
    key_file: Path

    def write_key_file(self, keys: KeyPair) -> None:
        self.key_file.write_text(json.dumps(keys.info(self.url)))

    def worker(
        self, *keys: str, locations: str | None = None, vertex_url: str | None = None
    ) -> contextlib.AbstractAsyncContextManager[Worker]:
        """A worker with these keys of the Gemini API, then Vertex AI at these locations."""
        settings = Settings(
            api_key=SecretStr(",".join(keys)),
            base_url=self.url,
            credentials=self.key_file if locations else None,
            project=PROJECT,
            location=locations or "global",
            vertex_base_url=vertex_url or self.url,
        )
        return worker(PROVIDER, PROVIDER.suppliers(settings))

    async def operations(self) -> list[str]:
        """What was asked of it, in order."""
        return [entry["operation"] for entry in await self.served()]

    async def served(self) -> list[dict[str, Any]]:
        """What it says that it served, in order."""
        async with self.session.get(f"{self.url}/simulator/served") as response:
            return (await response.json())["served"]

    async def caches(self) -> list[str]:
        """The names of the caches of the key `key`."""
        return await _names(self.session, f"{self.url}/v1beta", {"x-goog-api-key": "key"})

    async def delete_all(self, location: str | None = None) -> None:
        """Let all caches, of the key or at a location, be gone before their time."""
        root, headers = f"{self.url}/v1beta", {"x-goog-api-key": "key"}
        if location is not None:
            root = f"{self.url}/v1/projects/{PROJECT}/locations/{location}"
            granted = await token(Peer(self.url, self.session))
            headers = {"authorization": f"Bearer {granted.json['access_token']}"}
        for name in await _names(self.session, root, headers):
            one = f"{root}/cachedContents/{name.rpartition('/')[2]}"
            async with self.session.delete(one, headers=headers) as response:
                assert response.status == 200


async def _names(session: aiohttp.ClientSession, root: str, headers: dict[str, str]) -> list[str]:
    async with session.get(f"{root}/cachedContents", headers=headers) as response:
        return [cache["name"] for cache in (await response.json())["cachedContents"]]


def hello(prompt: str = "Hi", model: str = FLASH, **members: Any) -> dict[str, Any]:
    """A request without a breakpoint."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **members}


def cached(prompt: str = "Hi", policy: str = POLICY, **members: Any) -> dict[str, Any]:
    """A request with a breakpoint behind its system message."""
    part = {"type": "text", "text": policy, "cache_control": {"type": "ephemeral"}}
    system = {"role": "system", "content": [part]}
    return {"model": FLASH, "messages": [system, {"role": "user", "content": prompt}], **members}


def embed(inputs: str | list[str], **members: Any) -> dict[str, Any]:
    """A request for embeddings."""
    return {"model": "google/text-embedding-004", "input": inputs, **members}


async def record_of(worker: Worker, answer: Answer) -> UsageRecorded:
    """The record of an answer, which agrees with itself and with what the client read."""
    assert answer.status == 200, answer.body
    (record,) = [one for one in worker.books.records if one.request_id == answer.headers["x-request-id"]]
    assert record.outcome == "completed"
    assert record.cost == record.owed > 0
    rates = CATALOG[record.model].rates
    expected = rates.halved() if record.service_tier == "flex" else rates
    assert Rates(**record.rates_pico_usd_per_token.model_dump()) == expected
    assert record.cost == cost_pico(Tokens(**record.tokens.model_dump()), expected)
    return record
