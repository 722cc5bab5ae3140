"""A supplier that keeps failing is left alone, tried again by one, and used again once that succeeds."""

import pytest

from services.workers import breaker
from services.workers.breaker import FAILURES, OPEN_S, Breaker
from tests.unit.workers.running import Running, Simulator, chat


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(breaker, "monotonic", clock)
    return clock


def opened() -> Breaker:
    one = Breaker()
    for _ in range(FAILURES):
        assert one.admits()
        one.failed()
    return one


def test_fewer_failures_than_it_takes_shut_nobody_out(clock: Clock) -> None:
    one = Breaker()
    for _ in range(FAILURES - 1):
        one.failed()
    assert one.admits()
    one.succeeded()
    one.failed()
    assert one.admits(), "failures count only in a row"


def test_an_open_breaker_admits_nobody_and_says_for_how_long(clock: Clock) -> None:
    one = opened()
    assert not one.admits()
    assert one.retry_after_s == OPEN_S
    clock.now += OPEN_S - 1
    assert not one.admits()
    assert one.retry_after_s == 1


def test_after_the_pause_one_request_is_the_trial(clock: Clock) -> None:
    one = opened()
    clock.now += OPEN_S
    assert [one.admits(), one.admits()] == [True, False]


def test_a_trial_that_succeeds_lets_everybody_in_again(clock: Clock) -> None:
    one = opened()
    clock.now += OPEN_S
    assert one.admits()
    one.succeeded()
    assert all(one.admits() for _ in range(10))


def test_a_trial_that_fails_starts_the_pause_anew(clock: Clock) -> None:
    one = opened()
    clock.now += OPEN_S
    assert one.admits()
    one.failed()
    assert not one.admits()
    assert one.retry_after_s == OPEN_S


async def test_while_all_suppliers_rest_a_request_is_refused_at_once_with_a_pause(
    running: Running, simulator: Simulator
) -> None:
    async with running("anthropic") as worker:
        for number in range(FAILURES):
            assert (await worker.ask(chat("anthropic", f"{number} [[status=503]]"))).status == 503
        served = len(await simulator.served())
        answer = await worker.ask(chat("anthropic", "Hello"))
        assert (answer.status, answer.code) == (503, "no_supplier")
        assert 0 < int(answer.headers["Retry-After"]) <= OPEN_S
    assert len(await simulator.served()) == served, "nothing reached the provider"


async def test_a_clients_own_mistakes_never_open_a_breaker(running: Running) -> None:
    async with running("anthropic") as worker:
        for number in range(2 * FAILURES):
            assert (await worker.ask(chat("anthropic", f"{number} [[status=400]]"))).status == 400
        assert (await worker.ask(chat("anthropic", "Hello"))).status == 200
