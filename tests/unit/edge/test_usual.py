"""A request without `max_tokens` holds the most, until answers have shown what such requests cost."""

from hypothesis import given
from hypothesis import strategies as st

from services.edge.leases import Wanted
from services.edge.usual import SEEN, TIMES, WINDOW, Usual

MOST_PICO = 10**12
costs = st.integers(1, MOST_PICO)


def after(*seen: int) -> Usual:
    usual = Usual("w", "m")
    for pico in seen:
        usual.seen(pico)
    return usual


@given(st.lists(costs, max_size=SEEN - 1))
def test_the_first_ones_hold_the_most(seen: list[int]) -> None:
    assert after(*seen).of(MOST_PICO) == MOST_PICO


@given(st.lists(costs, min_size=SEEN, max_size=5 * WINDOW))
def test_what_is_held_covers_some_times_the_dearest_of_the_latest_answers_and_never_passes_the_most(
    seen: list[int],
) -> None:
    held, latest, both = after(*seen).of(MOST_PICO), max(seen[-WINDOW:]), max(seen[-2 * WINDOW :])
    assert min(MOST_PICO, TIMES * latest) <= held <= min(MOST_PICO, TIMES * both)


def test_one_long_answer_is_enough_to_hold_for_long_ones_again_and_is_forgotten_in_time() -> None:
    usual = after(*[10] * 1000)
    assert usual.of(MOST_PICO) == TIMES * 10
    usual.seen(MOST_PICO)
    assert usual.of(MOST_PICO) == MOST_PICO
    for _ in range(2 * WINDOW):
        usual.seen(10)
    assert usual.of(MOST_PICO) == TIMES * 10


def test_only_the_answers_part_is_guessed_and_a_failure_teaches_nothing() -> None:
    usual = Usual("w", "m")
    wanted = Wanted("id", "w", "k", False, 1000 + MOST_PICO, False, usual, MOST_PICO)
    for _ in range(SEEN):
        assert wanted.amount_pico == 1000 + MOST_PICO
        wanted.cost(0)
        wanted.cost(1000 + 7)
    assert wanted.amount_pico == 1000 + TIMES * 7


def test_a_request_with_a_limit_of_its_own_holds_that() -> None:
    wanted = Wanted("id", "w", "k", False, 1000, False)
    wanted.cost(1)
    assert wanted.amount_pico == 1000
