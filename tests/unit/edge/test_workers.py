"""Which worker takes a request, when some are busy, refuse, come or go."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from services.edge import workers as workers_module
from services.edge.workers import Workers
from shared import http
from shared.drain import BREAK_OFF, DRAINING, BreakOff
from shared.errors import NoSupplier
from shared.ids import new_id
from tests.servers.process import free_ports
from tests.unit.edge.running import HELLO, edge_before, serving
from tests.unit.workers.running import until

NAME = "workers.test"
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Names:
    """Plays the cluster's name service: one name, the addresses of whoever runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = list(HOSTS)
        self.asked = 0
        loop = asyncio.get_running_loop()
        original = loop.getaddrinfo

        async def getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
            if host != NAME:
                return await original(host, port, **options)
            self.asked += 1
            if not self.addresses:
                raise socket.gaierror("no such name")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


async def own_address(request: web.Request) -> web.Response:
    """A worker that answers with its address."""
    return web.Response(text=request.host.partition(":")[0])


@contextlib.asynccontextmanager
async def running(*hosts: str) -> AsyncIterator[Workers]:
    """Workers on these addresses, each of which answers with its own."""
    (port,) = free_ports(1)
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts:
            await stack.enter_async_context(serving(own_address, host, port))
        workers = Workers({"p": f"http://{NAME}:{port}"})
        stack.callback(workers.close)
        yield workers


def named() -> dict[str, str]:
    return {"x-request-id": new_id()}


async def answered_by(workers: Workers) -> str:
    async with workers.post("p", "/", b"", named()) as answer:
        return (await answer.read()).decode()


async def test_each_request_goes_to_the_worker_with_the_fewest_in_flight(names: Names) -> None:
    async with running(*HOSTS) as workers, contextlib.AsyncExitStack() as open_calls:
        taken = []
        for _ in range(6):
            answer = await open_calls.enter_async_context(workers.post("p", "/", b"", named()))
            taken.append((await answer.read()).decode())
        assert sorted(taken[:3]) == sorted(taken[3:]) == list(HOSTS)


async def test_a_request_that_has_ended_frees_its_place(names: Names) -> None:
    async with running(*HOSTS[:2]) as workers:
        names.addresses = list(HOSTS[:2])
        async with workers.post("p", "/", b"", named()) as busy:
            elsewhere = {await answered_by(workers) for _ in range(4)}
            assert elsewhere == set(HOSTS[:2]) - {(await busy.read()).decode()}
        assert await answered_by(workers) == HOSTS[0]


async def test_a_refused_connection_moves_on_and_is_left_alone_for_a_while(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(HOSTS[1]) as workers:
        names.addresses = [HOSTS[0], HOSTS[1]]
        with capture_logs() as logs:
            assert {await answered_by(workers) for _ in range(4)} == {HOSTS[1]}
        assert [one["address"] for one in logs if one["event"] == "worker_refused"] == [HOSTS[0]]
        monkeypatch.setattr(workers_module, "REFUSED_S", -1.0)
        with capture_logs() as logs:
            workers._pools["p"].avoided_until.clear()
            assert {await answered_by(workers) for _ in range(2)} == {HOSTS[1]}
        assert len(logs) == 2, "once the while is over it is tried again"


async def test_where_no_worker_takes_the_connection_nothing_is_on_record(names: Names) -> None:
    async with edge_before({"anthropic": f"http://{NAME}:{free_ports(1)[0]}"}) as edge:
        answer = await edge.ask(HELLO)
        await edge.answers()
        assert (answer.status, answer.code) == (503, "no_supplier")
        assert not edge.books.records


async def test_workers_come_and_go_with_their_name(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(*HOSTS) as workers:
        names.addresses = [HOSTS[0]]
        assert await answered_by(workers) == HOSTS[0]
        names.addresses = [HOSTS[2]]
        assert await answered_by(workers) == HOSTS[0], "names are not asked for at every request"
        assert names.asked == 1
        monkeypatch.setattr(workers_module, "RESOLVE_EVERY_S", 0.0)
        assert await answered_by(workers) == HOSTS[2]


async def test_while_the_name_service_is_away_the_known_workers_go_on(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "RESOLVE_EVERY_S", 0.0)
    async with running(HOSTS[0]) as workers:
        names.addresses = [HOSTS[0]]
        assert await answered_by(workers) == HOSTS[0]
        names.addresses = []
        assert await answered_by(workers) == HOSTS[0]
        await workers.ready("p")


async def test_a_name_that_never_resolved_is_not_ready(names: Names) -> None:
    names.addresses = []
    with pytest.raises(NoSupplier, match="no p worker is known"):
        await Workers({"p": f"http://{NAME}:80"}).ready("p")


async def test_a_worker_that_drains_is_left_to_the_others_and_its_idle_connections_are_closed(names: Names) -> None:
    names.addresses = list(HOSTS[:2])
    async with contextlib.AsyncExitStack() as stack:
        (port,) = free_ports(1)
        draining = http.build_app("worker", {})
        draining.router.add_post("/", own_address)
        await stack.enter_async_context(http.listening(draining, HOSTS[0], port))
        await stack.enter_async_context(serving(own_address, HOSTS[1], port))
        workers = Workers({"p": f"http://{NAME}:{port}"})
        stack.callback(workers.close)
        async with contextlib.AsyncExitStack() as at_once:
            for _ in range(4):
                await (await at_once.enter_async_context(workers.post("p", "/", b"", named()))).read()
        assert len(workers._client._idle[HOSTS[0], port]) == 2
        draining[DRAINING].set()
        answers = [await answered_by(workers) for _ in range(6)]
        assert answers.count(HOSTS[0]) == 1, "it is asked until it has said so"
        assert (HOSTS[0], port) not in workers._client._idle
        names.addresses = [HOSTS[0]]
        workers._pools["p"].resolved_at = -workers_module.RESOLVE_EVERY_S
        assert await answered_by(workers) == HOSTS[0], "where there is no other, it still answers"


async def test_idle_connections_to_an_address_that_the_name_has_lost_are_closed(names: Names) -> None:
    async with running(*HOSTS[:1]) as workers:
        names.addresses = [HOSTS[0]]
        await answered_by(workers)
        assert workers._client._idle
        names.addresses = [HOSTS[1]]
        workers._pools["p"].resolved_at = -workers_module.RESOLVE_EVERY_S
        await workers.ready("p")
        assert not workers._client._idle


async def test_a_provider_may_have_several_names_and_one_that_fails_takes_nothing_from_the_others() -> None:
    (port,) = free_ports(1)
    async with contextlib.AsyncExitStack() as stack:
        for host in HOSTS:
            await stack.enter_async_context(serving(own_address, host, port))
        workers = Workers({"p": [f"http://{host}:{port}" for host in HOSTS] + [f"http://nowhere.invalid:{port}"]})
        stack.callback(workers.close)
        async with contextlib.AsyncExitStack() as at_once:
            answers = [await at_once.enter_async_context(workers.post("p", "/", b"", named())) for _ in HOSTS]
            assert {(await answer.read()).decode() for answer in answers} == set(HOSTS)


async def test_a_request_that_reaches_its_worker_after_the_word_that_breaks_it_off_is_broken_off_too() -> None:
    told, ended = list[list[str]](), asyncio.Event()

    async def worker(request: web.Request) -> web.Response:
        if request.path == BREAK_OFF:
            told.append(BreakOff.model_validate_json(await request.read()).request_ids)
            if len(told) > 1:  # by then it runs; the first word came before it
                ended.set()
        else:
            await ended.wait()
        return web.Response()

    async with serving(worker) as url:
        workers, headers = Workers({"p": url}), named()

        async def ask() -> int:
            async with workers.post("p", "/", b"", headers) as answer:
                return answer.status

        asking = asyncio.create_task(ask())
        await until(lambda: workers._running, "it is sent")
        await workers.break_off({})
        ended.set()
        assert told[:2] == [[headers["x-request-id"]]] * 2
        assert await asking == 200
        workers.close()


async def test_an_edge_that_breaks_off_what_runs_begins_nothing_more(names: Names) -> None:
    async with running(*HOSTS[:1]) as workers:
        await workers.break_off({})
        with pytest.raises(NoSupplier, match="stops"):
            await answered_by(workers)
