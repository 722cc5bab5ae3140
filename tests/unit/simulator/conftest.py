"""A simulator on a real port, and the official client of Google before it."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from google import genai
from google.genai import types

from services.simulator.app import build_app
from shared.http import listening
from tests.unit.simulator.peers import DEADLINE_S, Peer


@pytest.fixture
async def simulator() -> AsyncIterator[Peer]:
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with listening(build_app(), "127.0.0.1", 0) as port, aiohttp.ClientSession(timeout=timeout) as session:
        yield Peer(f"http://127.0.0.1:{port}", session)


@pytest.fixture
async def google_client(simulator: Peer) -> AsyncIterator[genai.client.AsyncClient]:
    options = types.HttpOptions(base_url=simulator.url, api_version="v1beta")
    with genai.Client(api_key="key", http_options=options) as client:
        async with client.aio as asynchronous:
            yield asynchronous
