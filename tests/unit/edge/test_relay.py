"""Answers pass through byte by byte; a lost worker is told of, recorded at 0, and never mistaken for a client gone."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from services.edge import relay
from services.edge.app import EDGE
from services.edge.relay import Ending
from services.simulator.app import build_app as build_simulator
from shared.errors import BillingUnavailable
from shared.events import Encoded
from shared.http import ClientLeft, listening
from shared.outbox import Outbox
from shared.sse import Decoder
from tests.servers.process import Keeper, Process, free_ports
from tests.unit.edge.running import DONE, HELLO, MODEL, Edge, edge, edge_before, fine
from tests.unit.workers.running import TOKEN, until

STREAM = HELLO | {"stream": True}
WORDS = b'data: {"choices":[{"index":0,"delta":{"content":"Once [DONE] \\n\\n upon"}}]}\n\n'


@given(
    texts=st.lists(st.text() | st.sampled_from(["data: [DONE]\n\n", "data: [DONE]", "[DONE]\n\n", "\n\ndata: "])),
    settled=st.none() | st.builds(relay.Settled, st.integers(0, 10**18), st.integers(0, 10**9)),
    data=st.data(),
)
def test_any_cut_of_a_stream_gives_the_client_all_up_to_its_end_and_the_edge_the_cost(
    texts: list[str], settled: relay.Settled | None, data: st.DataObject
) -> None:
    clients = b"".join(b"data: " + json.dumps({"content": text}).encode() + b"\n\n" for text in texts) + DONE
    sent = clients + (b": settled %d %d\n\n" % (settled.cost_pico, settled.tokens) if settled else b"")
    ending = Ending()
    assert b"".join(map(ending.feed, data.draw(cuts(sent)))) == clients
    assert ending.complete
    assert ending.settled == settled


@given(cut=st.integers(0, len(WORDS + DONE) - 1), data=st.data())
def test_a_stream_that_stops_anywhere_before_its_end_is_not_complete(cut: int, data: st.DataObject) -> None:
    ending, sent = Ending(), (WORDS + DONE)[:cut]
    passed = b"".join(map(ending.feed, data.draw(cuts(sent))))
    assert sent.startswith(passed)
    assert DONE.startswith(sent.removeprefix(passed)), "only what may be the beginning of its end is held back"
    told = [event.data for event in Decoder().feed(passed + b"\n\n")]
    assert "[DONE]" not in told, "and nothing that is told later can make it whole"
    assert not ending.complete
    assert ending.settled is None


@st.composite
def cuts(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    return [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]


def playing(*pieces: bytes, cut: bool = False) -> Any:
    """A worker that sends these pieces as a stream, then ends it or breaks the connection."""

    async def play(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        if cut:
            assert request.transport is not None
            request.transport.close()
        return response

    return play


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def half_a_body(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"half"')
    await asyncio.sleep(0)
    return await hang_up(request)


async def test_a_stream_reaches_the_client_as_sent_but_for_the_mark() -> None:
    async with edge(playing(WORDS, WORDS[:9], WORDS[9:], DONE[:5], DONE[5:] + b": settl", b"ed 12 3\n\n")) as running:
        answer = await running.ask(STREAM)
        await running.answers()
        assert answer.body == WORDS + WORDS + DONE
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert not running.books.records


async def test_a_whole_answer_keeps_its_meaning_and_loses_what_is_between_us() -> None:
    seen: dict[str, str] = {}

    async def worker(request: web.Request) -> web.Response:
        seen.update({name.lower(): value for name, value in request.headers.items()})
        headers = {
            "x-opentoken-settled": "1444000000",
            "x-opentoken-tokens": "1950",
            "x-opentoken-upstream-ms": "3",
            "Retry-After": "7",
            "Server": "w",
        }
        return web.json_response({"a": 1}, headers=headers)

    async with edge(worker) as running:
        answer = await running.ask(HELLO)
    assert answer.json == {"a": 1}
    assert answer.headers["x-opentoken-cost"] == "0.001444"
    assert float(answer.headers["x-opentoken-overhead-ms"]) >= 0
    assert answer.headers["Retry-After"] == "7"
    assert answer.headers["x-request-id"] == seen["x-request-id"]
    assert not {"x-opentoken-settled", "x-opentoken-tokens", "x-opentoken-upstream-ms"} & {
        name.lower() for name in answer.headers
    }
    assert (seen["x-opentoken-workspace"], seen["x-opentoken-key"]) == ("w", "AbCdEfGh1234")
    assert seen["authorization"] == f"Bearer {TOKEN}", "a client's key goes no further than the edge"


async def test_the_body_that_the_client_sent_is_the_body_that_the_worker_gets() -> None:
    sent = json.dumps(HELLO, indent=7).encode() + b" \n"
    got: list[bytes] = []

    async def worker(request: web.Request) -> web.Response:
        got.append(await request.read())
        return await fine(request)

    async with edge(worker) as running:
        await running.ask(sent)
    assert got == [sent]


@pytest.mark.parametrize("body", [HELLO, STREAM], ids=["whole", "streamed"])
@pytest.mark.parametrize("lost", [hang_up, half_a_body])
async def test_a_worker_lost_before_anything_was_sent_is_a_500_and_free(lost: Any, body: Any) -> None:
    async with edge(lost) as running:
        answer = await running.ask(body)
        record = await running.books.only()
    assert answer.status == 500
    assert (answer.json["error"]["type"], answer.code) == ("api_error", None)
    check_lost(record, answer.headers["x-request-id"], stream="stream" in body)


@pytest.mark.parametrize("cut", [False, True], ids=["a clean end", "a broken connection"])
@pytest.mark.parametrize("sent", [WORDS, WORDS + WORDS[:20], WORDS + DONE[:-1]], ids=["whole", "torn", "all but one"])
async def test_a_worker_lost_inside_a_stream_is_told_of_in_it_and_free(sent: bytes, cut: bool) -> None:
    async with edge(playing(sent, cut=cut)) as running:
        answer = await running.ask(STREAM)
        record = await running.books.only()
    events = [event.data for event in Decoder().feed(answer.body)]
    *_, error, done = events
    assert (done, events.count("[DONE]")) == ("[DONE]", 1), "a client stops at the first one"
    told = json.loads(error)["error"]
    assert (told["type"], told["code"]) == ("api_error", None)
    assert answer.body.startswith(sent.removesuffix(DONE[:-1]))
    check_lost(record, answer.headers["x-request-id"], stream=True)


async def test_a_lost_worker_is_on_record_though_its_client_leaves_meanwhile() -> None:
    async with edge(playing(WORDS, cut=True)) as running:
        running.books.released.clear()  # the broker takes its time
        async with running.post(STREAM) as response:
            await response.content.readany()
            await until(lambda: running.books.records, "the first one is on its way")
            async with running.post(STREAM) as second:
                await second.content.readany()
                await until(lambda: running.app[EDGE].outbox._bus._packer._waiting, "the second one waits behind it")  # type: ignore[attr-defined]  # the local bus
            await running.answers()  # by now the edge has seen its client leave
        running.books.released.set()
        await until(lambda: len(running.books.records) == 2, "both are on record")


def check_lost(record: Any, request_id: str, *, stream: bool) -> None:
    assert (record.request_id, record.outcome, record.stream) == (request_id, "worker_lost", stream)
    assert (record.cost, record.owed) == (0, 0)
    assert (record.workspace_id, record.key_id, record.model) == ("w", "AbCdEfGh1234", MODEL)


@pytest.mark.parametrize("cut", [False, True], ids=["a clean end", "a broken connection"])
async def test_an_answer_that_was_seen_to_its_end_is_never_recorded_as_lost(cut: bool) -> None:
    """Its usage was durable before its end was sent: a record at 0 could come first, and win."""
    async with edge(playing(WORDS, DONE, cut=cut)) as running:
        answer = await running.ask(STREAM)
        await running.answers()
        assert answer.body == WORDS + DONE
        assert not running.books.records


@pytest.mark.parametrize("mark", [None, "", "soon"])
async def test_a_whole_answer_without_its_settled_mark_is_never_passed_on(mark: str | None) -> None:
    """Nobody knows that its usage is durable: a client that has read it might not be billed."""

    async def worker(request: web.Request) -> web.Response:
        return web.json_response({"a": 1}, headers={} if mark is None else {"x-opentoken-settled": mark})

    async with edge(worker) as running:
        answer = await running.ask(HELLO)
        record = await running.books.only()
    assert answer.status == 500
    check_lost(record, answer.headers["x-request-id"], stream=False)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_lost_worker_is_told_of_even_where_that_cannot_be_put_on_record(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(outbox: Outbox, event: Encoded) -> None:
        raise BillingUnavailable

    monkeypatch.setattr(Outbox, "put", full)
    async with edge(playing(WORDS, cut=True) if stream else hang_up) as running:
        answer = await running.ask(STREAM if stream else HELLO)
    if stream:
        assert b'"type":"api_error"' in answer.body
        assert answer.body.endswith(DONE)
    else:
        assert (answer.status, answer.json["error"]["type"], answer.code) == (500, "api_error", None)


async def test_a_client_that_takes_no_more_until_the_time_is_up_has_left_and_no_worker_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "LONGEST_S", 0.3)
    ended = asyncio.Event()

    async def worker(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(WORDS * 1000)
        finally:
            ended.set()

    async with edge(worker) as running:
        async with running.post(STREAM) as answer:
            await asyncio.wait_for(ended.wait(), timeout=10)
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        await running.answers()
        assert not running.books.records


async def test_a_client_that_leaves_ends_the_workers_call_and_no_worker_is_lost() -> None:
    ended = asyncio.Event()

    async def worker(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(WORDS)
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    async with edge(worker) as running:
        async with running.post(STREAM) as answer:
            await answer.content.readany()
        await asyncio.wait_for(ended.wait(), timeout=10)
        await running.answers()
        assert not running.books.records


class Departed:
    """A client's stream at the moment in which the client is gone and the server has not noticed yet."""

    def __init__(self, writes: int) -> None:
        self._writes = writes

    async def write(self, data: bytes) -> None:
        self._writes -= 1
        if self._writes < 0:
            await self.write_eof()

    async def write_eof(self) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")


class Arrived:
    """A worker's answer that is here."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def readany(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


@pytest.mark.parametrize("writes", [0, 1, 2], ids=["at once", "inside", "at the end"])
async def test_a_client_that_leaves_is_never_taken_for_a_worker_that_is_lost(writes: int) -> None:
    answer: Any = Arrived(WORDS, DONE)
    departed: Any = Departed(writes)
    stream = relay.Stream()
    stream.response = departed
    with pytest.raises(ClientLeft):
        await relay._streamed(answer, stream)


@pytest.fixture
def worker_process() -> Iterator[Any]:
    """Starts a worker as a process of its own, without a broker: its usage waits in its spool."""
    (port,) = free_ports(1)
    with contextlib.closing(Keeper("worker")) as kept:

        def start(simulator: str) -> tuple[Process, str]:
            env = {
                "OPENTOKEN_INTERNAL_TOKEN": TOKEN, "OPENTOKEN_BROKER_URL": "amqp://127.0.0.1:1/",
                "OPENTOKEN_HOST": "127.0.0.1", "OPENTOKEN_PORT": str(port), "OPENTOKEN_METRICS_PORT": "0",
                "OPENTOKEN_DATA_DIR": str(kept.folder), "PYTHONPATH": ":".join(sys.path),
                "ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": simulator,
            }  # fmt: skip
            process = Process([sys.executable, "-m", "services.workers.anthropic"], kept, env=env)
            process.start()
            started.append(process)
            return process, f"http://127.0.0.1:{port}"

        started: list[Process] = []
        yield start
        for process in started:
            process.close()


async def test_a_worker_process_killed_inside_an_answer_costs_the_client_nothing(worker_process: Any) -> None:
    slow: dict[str, Any] = STREAM | {"messages": [{"role": "user", "content": "Hi [[chunks=500 chunk_delay_ms=20]]"}]}
    async with listening(build_simulator(), "127.0.0.1", 0) as port:
        process, url = worker_process(f"http://127.0.0.1:{port}")
        async with edge_before({"anthropic": url}) as running:
            await until(lambda: answers(running, url), "the worker is up")
            async with running.post(slow) as answer:
                first = await answer.content.readany()
                process.kill()
                rest = await answer.content.read()
            record = await running.books.only()
    assert b"delta" in first
    assert rest.endswith(DONE)
    assert b'"type":"api_error"' in rest
    check_lost(record, answer.headers["x-request-id"], stream=True)


async def answers(running: Edge, url: str) -> bool:
    try:
        async with running.session.get(f"{url}/health") as health:
            return health.status == 200
    except aiohttp.ClientConnectorError:
        return False
