"""Lending on the real databases: what is lent is nobody else's, and leaves its lease when it reaches the books."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text

from services.billing import pots, verify
from services.billing.accounts import Accounts, NewKey
from services.billing.database import connect, reading
from services.billing.leases import Leases
from services.billing.ledger import Credit, Ledger
from services.billing.lending import GRACE
from services.billing.tables import key_spend, lease_booked
from shared.ids import new_id
from shared.leases import FLOOR_PICO, Ask, Asks, Lent
from shared.money import Tokens, cost_pico
from tests.integration.billing.clock import Clock
from tests.unit.billing.events import COST_PICO, GEMINI, usage

USD = 10**12
EDGE, OTHER = new_id(), new_id()


@pytest.fixture
def leases(engine: Engine, ledger: Ledger, clock: Clock) -> Leases:
    """Leases on a workspace `w` with 1 USD."""
    ledger.credit(Credit("w", USD, "payment", "test"))
    return Leases(engine, clock, clock)


def key_of(engine: Engine, limit_pico: int | None = None, reset: Any = None) -> str:
    row, _ = Accounts(engine).create_key(NewKey("w", "test", spend_limit_pico=limit_pico, limit_reset=reset))
    return str(row["id"])


def ask(leases: Leases, lease_id: str, edge: str = EDGE, workspace_id: str = "w", **how: Any) -> Lent:
    told = {"used_pico": 0, "returned_pico": 0, "wanted_pico": how.get("needed_pico", 0)} | how
    one = Ask(lease_id=lease_id, workspace_id=workspace_id, **told)
    answers, _ = leases.answer(Asks(edge=edge, asks=[one]))
    return answers.lent[0]


def available(engine: Engine) -> int:
    with reading(engine) as connection:
        return pots.credit(connection, ["w"])["w"].available_pico


def test_what_is_lent_to_one_edge_is_not_there_for_another(engine: Engine, leases: Leases) -> None:
    assert ask(leases, new_id(), needed_pico=USD - 5).granted_pico == USD - 5
    assert available(engine) == 5
    assert ask(leases, new_id(), OTHER, needed_pico=6).short
    assert ask(leases, new_id(), OTHER, needed_pico=6, less_will_do=True).granted_pico == 5
    assert available(engine) == 0


def test_an_ask_that_comes_twice_or_late_changes_nothing(engine: Engine, leases: Leases) -> None:
    one = new_id()
    for wanted in (FLOOR_PICO, FLOOR_PICO, FLOOR_PICO // 2):
        assert ask(leases, one, wanted_pico=wanted).granted_pico == FLOOR_PICO
    ask(leases, one, used_pico=7, returned_pico=FLOOR_PICO - 7)
    ask(leases, one, used_pico=3)  # an older one, overtaken
    assert available(engine) == USD - 7


def test_a_booked_record_leaves_its_lease_in_the_same_moment(engine: Engine, ledger: Ledger, leases: Leases) -> None:
    one = new_id()
    ask(leases, one, needed_pico=10 * COST_PICO)
    before = available(engine)
    ledger.record([usage(lease_id=one), usage(lease_id=one)])
    assert available(engine) == before
    ask(leases, one, used_pico=3 * COST_PICO, final=True)
    assert available(engine) == USD - 3 * COST_PICO, "the third is used, and still on its way"
    ledger.record([usage(lease_id=one)])
    assert available(engine) == USD - 3 * COST_PICO


def test_leases_shrink_as_credit_does_and_then_are_marked_scarce(leases: Leases) -> None:
    granted = [ask(leases, new_id(), new_id(), wanted_pico=USD) for _ in range(4)]
    sizes = [one.granted_pico for one in granted]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == USD // 2
    assert granted[-1].scarce
    assert sum(sizes) < USD


def test_an_edge_that_could_be_served_if_others_gave_back_is_told_so(engine: Engine, leases: Leases) -> None:
    one, other = new_id(), new_id()
    ask(leases, one, needed_pico=USD)
    asked = Asks(edge=OTHER, asks=[Ask(lease_id=other, workspace_id="w", used_pico=0, returned_pico=0,
                                       wanted_pico=5, needed_pico=5)])  # fmt: skip
    answers, recalled = leases.answer(asked)
    assert (answers.lent[0].short, answers.lent[0].recalled, recalled) == (True, True, {"w"})
    ask(leases, one, returned_pico=USD)
    answers, recalled = leases.answer(asked)
    assert (answers.lent[0].granted_pico, answers.lent[0].short, recalled) == (5, False, set())


def test_a_dead_edges_lease_is_freed_an_hour_after_it_ran_out_and_no_sooner(
    engine: Engine, leases: Leases, clock: Clock
) -> None:
    one = new_id()
    ask(leases, one, needed_pico=USD)
    clock.pass_(seconds=60)
    clock.pass_(seconds=GRACE.total_seconds() - 1)
    assert leases.sweep() == 0
    assert available(engine) == 0
    clock.pass_(seconds=1)
    assert leases.sweep() == 1
    assert available(engine) == USD
    assert ask(leases, one, used_pico=5).closed, "an edge that comes back begins anew"


def test_a_service_that_was_away_frees_nothing_before_it_listened_for_an_hour(
    engine: Engine, leases: Leases, clock: Clock
) -> None:
    ask(leases, new_id(), needed_pico=USD)
    clock.pass_(hours=5)
    restarted = Leases(engine, clock, clock)
    clock.pass_(minutes=59)
    assert restarted.sweep() == 0
    clock.pass_(minutes=1)
    assert restarted.sweep() == 1


def test_usage_that_comes_after_its_lease_was_freed_still_lands(
    engine: Engine, ledger: Ledger, leases: Leases, clock: Clock
) -> None:
    one = new_id()
    ask(leases, one, needed_pico=USD)
    clock.pass_(hours=2)
    leases.sweep()
    ledger.record([usage(lease_id=one)])
    assert available(engine) == USD - COST_PICO
    clock.pass_(days=3000)
    leases.sweep()
    with reading(engine) as connection:
        assert connection.execute(select(lease_booked)).all() == []


@pytest.mark.parametrize(("reset", "again"), [("daily", True), ("monthly", True), (None, False)])
def test_a_keys_limit_holds_for_its_window_and_opens_again_with_the_next(
    engine: Engine, ledger: Ledger, leases: Leases, clock: Clock, reset: Any, again: bool
) -> None:
    key_id, one = key_of(engine, 3 * COST_PICO, reset), new_id()
    assert ask(leases, one, key_id=key_id, needed_pico=4 * COST_PICO).short
    assert ask(leases, one, key_id=key_id, needed_pico=3 * COST_PICO).granted_pico == 3 * COST_PICO
    ledger.record([usage(lease_id=one, key_id=key_id) for _ in range(3)])
    spent = 3 * COST_PICO
    assert ask(leases, one, key_id=key_id, used_pico=spent, needed_pico=spent + 1).short
    clock.pass_(seconds=10)  # midnight, and the first of a month
    assert ask(leases, one, key_id=key_id, used_pico=spent, needed_pico=spent + 1).short is not again


def test_what_runs_over_midnight_counts_in_the_window_in_which_it_is_booked(
    engine: Engine, ledger: Ledger, leases: Leases, clock: Clock
) -> None:
    key_id, one = key_of(engine, 3 * COST_PICO, "daily"), new_id()
    ask(leases, one, key_id=key_id, needed_pico=3 * COST_PICO)
    clock.pass_(seconds=10)
    other = new_id()
    assert ask(leases, other, OTHER, key_id=key_id, needed_pico=1).short, "all of it is lent, whenever it is spent"
    ledger.record([usage(lease_id=one, key_id=key_id)])
    ask(leases, one, key_id=key_id, used_pico=COST_PICO, final=True)
    assert not ask(leases, other, OTHER, key_id=key_id, needed_pico=2 * COST_PICO).short
    assert ask(leases, other, OTHER, key_id=key_id, needed_pico=2 * COST_PICO + 1).short


def test_a_key_whose_limit_was_lowered_or_taken_away_is_lent_accordingly(engine: Engine, leases: Leases) -> None:
    limited, free, one = key_of(engine, 0), key_of(engine), new_id()
    assert ask(leases, one, key_id=limited, needed_pico=1).short
    assert ask(leases, one, key_id=free, needed_pico=USD).granted_pico == USD


@pytest.mark.parametrize(
    "names", [{"workspace_id": "nobody"}, {"key_id": "nobody"}, {"workspace_id": "a", "key_id": "k"}]
)
def test_nothing_is_lent_on_what_does_not_exist(leases: Leases, names: dict[str, str]) -> None:
    assert ask(leases, new_id(), **({"workspace_id": "w"} | names), needed_pico=1).closed


def test_a_lease_is_its_edges_alone(leases: Leases) -> None:
    one = new_id()
    ask(leases, one, needed_pico=5)
    assert ask(leases, one, OTHER, wanted_pico=9).closed
    assert ask(leases, one, workspace_id="a", wanted_pico=9).closed


def test_the_costs_that_an_edge_did_not_see_are_told_once_they_are_on_record(ledger: Ledger, leases: Leases) -> None:
    known, free, unknown = usage(), usage(outcome="upstream_failed"), new_id()
    ledger.record([known, free])
    pending = [known.request_id, free.request_id, unknown, "-" * 36]
    answers, _ = leases.answer(Asks(edge=EDGE, asks=[], pending=pending))
    assert answers.settled == {known.request_id: COST_PICO, free.request_id: 0}


def test_what_is_kept_of_each_keys_spend_is_what_verify_finds_in_the_books(
    engine: Engine, ledger: Ledger, clock: Clock
) -> None:
    ledger.record([usage(key_id=name, lease_id=new_id()) for name in ("k", "k", "other")])
    clock.pass_(days=1)
    ledger.record([usage(key_id="k")])
    with reading(engine) as connection:
        found = connection.execute(select(key_spend).order_by(key_spend.c.key_id, key_spend.c.day)).all()
        assert [tuple(row) for row in found] == [
            ("k", "2026-01-31", 2 * COST_PICO), ("k", "2026-02-01", COST_PICO), ("other", "2026-01-31", COST_PICO),
        ]  # fmt: skip
        assert not list(verify.verify(connection, [], lambda _: None))
    with engine.begin() as connection:
        connection.execute(text("UPDATE key_spend SET cost_pico = 1 WHERE key_id = 'other'"))
    with reading(engine) as connection:
        (finding,) = verify.verify(connection, [], lambda _: None)
    assert (finding.check, finding.row) == ("spend", "key_spend other 2026-01-31")


def test_edges_that_ask_at_once_while_usage_is_booked_are_never_lent_more_than_there_is(
    engine: Engine, database_url: str, ledger: Ledger, leases: Leases
) -> None:
    """More is asked for than there is; whatever is granted is used and booked, so a loan too much passes zero."""
    cost = cost_pico(Tokens(output=1000), GEMINI.rates)

    def spend(number: int) -> int:
        own = connect(database_url)
        try:
            mine, edge, one, used = Leases(own), new_id(), new_id(), 0
            for _ in range(15):
                lent = ask(mine, one, edge, used_pico=used, needed_pico=used + 10 * cost, wanted_pico=used + 10 * cost)
                if lent.granted_pico < used + 10 * cost:
                    break
                Ledger(own).record([usage(lease_id=one, tokens=Tokens(output=1000)) for _ in range(10)])
                used += 10 * cost
            return used
        finally:
            own.dispose()

    with ThreadPoolExecutor(4) as threads:
        used = sum(threads.map(spend, range(4)))
    with reading(engine) as connection:
        pot = pots.credit(connection, ["w"])["w"]
    assert pot.limit_pico == USD - used >= 0
    assert used == USD // (10 * cost) * 10 * cost, "and nobody was refused what was there"


def test_asks_of_many_workspaces_take_no_more_statements_than_of_one(engine: Engine, leases: Leases) -> None:
    names = [f"many-{number}" for number in range(30)]
    for name in names:
        Accounts(engine).create_workspace(name, name)
    statements = list[str]()
    event.listen(engine, "after_cursor_execute", lambda *call: statements.append(call[2]))

    def count(asked: list[str]) -> int:
        statements.clear()
        asks = [
            Ask(lease_id=new_id(), workspace_id=name, used_pico=0, returned_pico=0, wanted_pico=9) for name in asked
        ]
        leases.answer(Asks(edge=EDGE, asks=asks))
        return sum("advisory" not in one for one in statements)

    assert count(names) == count(names[:1])


def test_an_edge_is_told_how_many_spend_from_the_workspace_until_they_end_or_are_silent(
    leases: Leases, clock: Clock
) -> None:
    ours, theirs = new_id(), new_id()
    assert ask(leases, ours, wanted_pico=FLOOR_PICO).edges == 1
    assert ask(leases, theirs, OTHER, wanted_pico=FLOOR_PICO).edges == 2
    assert ask(leases, ours).edges == 2
    ask(leases, theirs, OTHER, final=True)
    assert ask(leases, ours).edges == 1
    ask(leases, new_id(), OTHER, wanted_pico=FLOOR_PICO)
    clock.pass_(minutes=2)
    assert ask(leases, ours).edges == 1
