"""The served log tells what was answered and counted, also to a client that did not wait for it."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from services.simulator import served
from services.simulator.app import SimulatorSettings, build_app
from services.simulator.served import ServedLog
from shared.http import listening
from tests.unit.simulator.peers import DEADLINE_S, GEMINI, Peer

CLAUDE_HEADERS = {"x-api-key": "key", "anthropic-version": "2023-06-01"}


async def entries(simulator: Peer, number: int = 1) -> Any:
    """The log, once it has so many entries."""
    async with asyncio.timeout(DEADLINE_S):
        while len(found := (await simulator.served())["served"]) < number:  # noqa: ASYNC110 - the log is polled, as by its users
            await asyncio.sleep(0.005)
    return found


async def test_an_answer_is_in_the_log_with_the_counts_it_reported(simulator: Peer) -> None:
    answer = await simulator.claude("[[cached=10]]", stream=True, thinking={"type": "adaptive"})
    (entry,) = (await simulator.served())["served"]
    usage = orjson.loads(answer.events[-2].data)["usage"]
    assert entry["tokens"]["output"] == usage["output_tokens"]
    assert entry["tokens"]["reasoning"] == usage["output_tokens_details"]["thinking_tokens"]
    assert entry["tokens"]["cache_read"] == 10
    assert entry["upstream_request_id"] == answer.headers["request-id"]
    assert (entry["provider"], entry["operation"], entry["streamed"]) == ("anthropic", "messages", True)
    assert (entry["status"], entry["outcome"], entry["reported"]) == (200, "completed", True)
    assert entry["started_at"] <= entry["ended_at"]


async def test_a_gemini_answer_is_known_by_its_response_id(simulator: Peer) -> None:
    answer = (await simulator.gemini()).json
    (entry,) = (await simulator.served())["served"]
    usage = answer["usageMetadata"]
    assert entry["upstream_request_id"] == entry["response_id"] == answer["responseId"]
    assert entry["tokens"]["output"] == usage["candidatesTokenCount"] + usage["thoughtsTokenCount"]
    assert (entry["provider"], entry["model"]) == ("google", GEMINI)


@pytest.mark.parametrize(
    ("prompt", "outcome", "status"),
    [
        ("[[status=500]]", "refused", 500),
        ("[[midstream_error]]", "failed", 200),
        ("[[truncate]]", "truncated", 200),
        ("[[eof]]", "truncated", 200),
    ],
)
async def test_an_answer_that_went_wrong_is_logged_as_such(
    simulator: Peer, prompt: str, outcome: str, status: int
) -> None:
    await simulator.gemini(prompt, stream=True)
    (entry,) = (await simulator.served())["served"]
    assert (entry["outcome"], entry["status"]) == (outcome, status)
    assert (entry["tokens"] is None) == (outcome == "refused")


async def test_withheld_usage_is_still_known_to_the_log(simulator: Peer) -> None:
    await simulator.claude("[[no_usage tokens=9]]")
    (entry,) = (await simulator.served())["served"]
    assert (entry["reported"], entry["tokens"]["output"]) == (False, 9)


async def test_embeddings_are_logged_with_the_input_they_did_not_report(simulator: Peer) -> None:
    model = "gemini-embedding-001"
    request = {"model": f"models/{model}", "content": {"parts": [{"text": "12345678"}]}}
    await simulator.google(f"{model}:batchEmbedContents", {"requests": [request, request]})
    (entry,) = (await simulator.served())["served"]
    assert (entry["operation"], entry["tokens"]["input"], entry["reported"]) == ("batchEmbedContents", 4, False)


async def test_a_client_that_leaves_mid_stream_is_logged_with_what_it_was_sent(simulator: Peer) -> None:
    body = {"contents": [{"parts": [{"text": "[[chunks=100 chunk_delay_ms=20]]"}]}]}
    url = f"{simulator.url}/v1beta/models/{GEMINI}:streamGenerateContent?alt=sse"
    async with simulator.session.post(url, json=body, headers={"x-goog-api-key": "key"}) as response:
        await response.content.readuntil(b"\r\n\r\n")
    (entry,) = await entries(simulator)
    assert (entry["outcome"], entry["status"]) == ("client_left", 200)
    whole = (await simulator.gemini("[[chunks=100]]")).json["usageMetadata"]
    assert (
        whole["thoughtsTokenCount"] < entry["tokens"]["output"] < whole["totalTokenCount"] - whole["promptTokenCount"]
    )


async def test_every_request_is_logged_once_wherever_its_client_left(simulator: Peer) -> None:
    body = {"contents": [{"parts": [{"text": "[[chunks=300]]"}]}]}
    url = f"{simulator.url}/v1beta/models/{GEMINI}:streamGenerateContent?alt=sse"
    for size in range(1, 60_000, 3_000):
        async with simulator.session.post(url, json=body, headers={"x-goog-api-key": "key"}) as response:
            await response.content.read(size)
    assert sorted(entry["number"] for entry in await entries(simulator, 20)) == [*range(1, 21)]


async def test_a_muted_request_ends_when_its_client_leaves(simulator: Peer) -> None:
    body = {"model": "claude-opus-4-6", "max_tokens": 9, "messages": [{"role": "user", "content": "[[mute]]"}]}
    waiting = asyncio.ensure_future(simulator.post("/v1/messages", body, CLAUDE_HEADERS))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting, 0.05)
    (entry,) = await entries(simulator)
    assert (entry["outcome"], entry["status"], entry["tokens"]) == ("client_left", None, None)


async def test_stopping_does_not_wait_for_the_muted() -> None:
    async with asyncio.timeout(DEADLINE_S), aiohttp.ClientSession() as session:
        async with listening(build_app(), "127.0.0.1", 0) as port:
            peer = Peer(f"http://127.0.0.1:{port}", session)
            waiting = asyncio.ensure_future(peer.gemini("[[mute]]"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(waiting), 0.05)
        await waiting


async def test_the_log_can_be_read_from_a_number_on_and_emptied(simulator: Peer) -> None:
    for _ in range(3):
        await simulator.claude()
    assert [entry["number"] for entry in (await simulator.served(since=1))["served"]] == [2, 3]
    async with simulator.session.delete(f"{simulator.url}/simulator/served") as response:
        assert response.status == 204
    assert await simulator.served() == {"served": [], "dropped": 0}
    await simulator.claude()
    assert [entry["number"] for entry in (await simulator.served())["served"]] == [4]


async def test_a_wrong_number_is_refused(simulator: Peer) -> None:
    async with simulator.session.get(f"{simulator.url}/simulator/served?since=x") as response:
        assert response.status == 400


async def test_the_file_holds_every_entry_as_a_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "served.jsonl"
    app = build_app(SimulatorSettings(simulator_log=path))
    async with listening(app, "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        peer = Peer(f"http://127.0.0.1:{port}", session)
        await peer.claude()
        await peer.gemini(stream=True)
        lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        assert lines == (await peer.served())["served"]


async def test_what_falls_off_is_counted(simulator: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "MAX_SERVED", 2)
    log = ServedLog(None)
    await simulator.claude()
    entry: Any = (await simulator.served())["served"][0]
    for _ in range(5):
        log.add(served.Served(**entry))
    assert log.since(0)["dropped"] == 3
    assert len(log.since(0)["served"]) == 2
