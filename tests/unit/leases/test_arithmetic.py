"""The bound of what can be overspent, whatever happens to edges, messages and clocks."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing import lending
from tests.unit.leases.model import lived

worlds = given(seed=st.integers(0, 2**32), edges=st.integers(1, 8))


@worlds
def test_a_balance_never_passes_zero_by_more_than_one_request_for_each_edge(seed: int, edges: int) -> None:
    world = lived(seed, edges, strict=False)
    assert world.bank.least_pico >= -len(world.dead) * world.largest_pico
    assert world.bank.spent_pico <= world.most_pico + len(world.dead) * world.largest_pico


@worlds
def test_a_strict_workspaces_balance_never_passes_zero(seed: int, edges: int) -> None:
    world = lived(seed, edges, strict=True)
    assert world.bank.least_pico >= 0
    assert world.bank.spent_pico <= world.most_pico, "a limit that sinks stops all but what was let in before"


@worlds
def test_when_all_edges_are_gone_for_long_enough_nothing_is_held_any_more(seed: int, edges: int) -> None:
    world = lived(seed, edges, strict=False)
    world.run(world.now + timedelta(hours=9).total_seconds())  # clocks were set by up to three hours, again and again
    world.bank.restart(timedelta(hours=24))
    world.run(world.now + timedelta(hours=2).total_seconds())
    world.bank.sweep()
    assert not world.bank.loans
    assert world.bank.pot("").available_pico == world.bank.balance_pico


def test_freeing_a_dead_edges_lease_as_soon_as_it_runs_out_breaks_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(seed: int) -> bool:
        world = lived(seed, 4, strict=True)
        return world.bank.least_pico < 0 or world.bank.spent_pico > world.most_pico

    assert not any(broken(seed) for seed in range(40))
    monkeypatch.setattr(lending, "GRACE", timedelta())
    assert any(broken(seed) for seed in range(40))
