"""Keys: asked of billing once, remembered for a moment, and never good for longer than billing's absence allows."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from aiohttp import web

from services.edge import accounts
from services.edge.accounts import Accounts
from services.edge.billing import Billing, build_session
from shared.changes import AccountChanged
from shared.errors import BillingUnavailable, InvalidKey
from tests.unit.edge.running import HELLO, KEY, Bank, digest, edge, fine, serving, standing

PAST = "2020-01-01T00:00:00.000000Z"


@dataclass(frozen=True, slots=True)
class Asking:
    """Accounts, the billing service behind them, and a gate before its answers."""

    accounts: Accounts
    bank: Bank
    open: asyncio.Event


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    bank, gate = Bank(), asyncio.Event()
    gate.set()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await bank.answer(request)
        await gate.wait()
        return response

    async with serving(answer) as url, build_session() as session:
        yield Asking(Accounts(Billing(session, url, "internal")), bank, gate)
        gate.set()


async def asked_about(asking: Asking, times: int) -> None:
    while len(asking.bank.asked) < times:  # noqa: ASYNC110 - billing is a peer, not a task of ours
        await asyncio.sleep(0.001)


async def test_many_requests_with_a_new_key_ask_billing_once(asking: Asking) -> None:
    asking.open.clear()
    waiting = [asyncio.create_task(asking.accounts.standing(KEY)) for _ in range(50)]
    await asked_about(asking, 1)
    waiting[0].cancel()  # a client that leaves takes nobody's answer away
    asking.open.set()
    first, *others = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert {getattr(one, "workspace_id", one) for one in others} == {"w"}
    assert asking.bank.asked == [digest(KEY)]


async def test_a_key_travels_to_billing_as_a_digest_only(asking: Asking) -> None:
    await asking.accounts.standing(KEY)
    assert KEY not in str(asking.bank.asked)


async def test_a_good_key_is_remembered_and_asked_about_again_when_that_is_old(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await asking.accounts.standing(KEY)
    assert len(asking.bank.asked) == 1
    monkeypatch.setattr(accounts, "UNWATCHED_S", 0.0)
    asking.bank.known[digest(KEY)] = standing(strict=True)
    assert (await asking.accounts.standing(KEY)).strict
    assert len(asking.bank.asked) == 2


async def test_while_changes_are_announced_a_key_is_not_asked_about_again(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "UNWATCHED_S", 0.0)
    asking.accounts.began()
    for _ in range(3):
        await asking.accounts.standing(KEY)
    assert len(asking.bank.asked) == 1
    asking.accounts.ended()
    await asking.accounts.standing(KEY)
    assert len(asking.bank.asked) == 2


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        (AccountChanged(workspace_id="w", key_id="AbCdEfGh1234"), 2),
        (AccountChanged(workspace_id="w"), 2),
        (AccountChanged(workspace_id="w", key_id="another"), 1),
        (AccountChanged(workspace_id="another"), 1),
        (AccountChanged(workspace_id="w", reason="recall"), 1),
    ],
)
async def test_what_changed_is_asked_for_again_and_nothing_else(
    asking: Asking, change: AccountChanged, asked: int
) -> None:
    asking.accounts.began()
    await asking.accounts.standing(KEY)
    asking.accounts.changed(change)
    await asking.accounts.standing(KEY)
    assert len(asking.bank.asked) == asked


async def test_what_was_remembered_before_changes_could_be_heard_is_forgotten(asking: Asking) -> None:
    asking.accounts.began()
    await asking.accounts.standing(KEY)
    asking.accounts.ended()
    asking.accounts.began()
    await asking.accounts.standing(KEY)
    assert len(asking.bank.asked) == 2


async def test_an_answer_that_a_change_overtook_is_not_remembered(asking: Asking) -> None:
    asking.accounts.began()
    asking.open.clear()
    task = asyncio.create_task(asking.accounts.standing(KEY))
    await asked_about(asking, 1)
    asking.accounts.changed(AccountChanged(workspace_id="w"))
    asking.open.set()
    await task
    await asking.accounts.standing(KEY)
    assert len(asking.bank.asked) == 2


async def test_a_request_that_follows_a_change_does_not_wait_for_an_answer_from_before_it(asking: Asking) -> None:
    asking.accounts.began()
    asking.open.clear()
    before = asyncio.create_task(asking.accounts.standing(KEY))
    await asked_about(asking, 1)
    asking.bank.known[digest(KEY)] = standing(revoked_at=PAST)
    asking.accounts.changed(AccountChanged(workspace_id="w", key_id="AbCdEfGh1234"))
    after = asyncio.create_task(asking.accounts.standing(KEY))
    await asyncio.sleep(0)
    asking.open.set()
    await before
    with pytest.raises(InvalidKey):
        await after


async def test_while_billing_is_away_a_key_that_changed_is_not_good_as_it_was_before(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "UNWATCHED_S", 0.0)
    await asking.accounts.standing(KEY)
    asking.bank.away = True
    asking.open.clear()
    waiting = asyncio.create_task(asking.accounts.standing(KEY))
    await asked_about(asking, 2)
    asking.accounts.changed(AccountChanged(workspace_id="w", key_id="AbCdEfGh1234"))
    asking.open.set()
    with pytest.raises(BillingUnavailable):
        await waiting


async def test_a_key_that_was_just_made_works_as_soon_as_that_is_announced(asking: Asking) -> None:
    new = "sk-optk-new"
    asking.accounts.began()
    with pytest.raises(InvalidKey):
        await asking.accounts.standing(new)
    asking.bank.known[digest(new)] = standing()
    asking.accounts.changed(AccountChanged(workspace_id="w", key_id="AbCdEfGh1234"))
    assert (await asking.accounts.standing(new)).workspace_id == "w"


async def test_a_wrong_key_cannot_make_every_request_a_call(asking: Asking) -> None:
    for _ in range(5):
        with pytest.raises(InvalidKey):
            await asking.accounts.standing("sk-optk-wrong")
    assert len(asking.bank.asked) == 1


async def test_a_key_that_was_unknown_works_as_soon_as_that_is_old(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = "sk-optk-new"
    with pytest.raises(InvalidKey):
        await asking.accounts.standing(new)
    asking.bank.known[digest(new)] = standing()
    monkeypatch.setattr(accounts, "UNKNOWN_S", 0.0)
    assert (await asking.accounts.standing(new)).workspace_id == "w"


async def test_a_revoked_key_is_as_invalid_as_an_unknown_one(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "UNWATCHED_S", 0.0)
    await asking.accounts.standing(KEY)
    asking.bank.known[digest(KEY)] = standing(revoked_at=PAST)
    with pytest.raises(InvalidKey):
        await asking.accounts.standing(KEY)


async def test_while_billing_is_away_a_good_key_lasts_for_a_while_and_no_longer(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "UNWATCHED_S", 0.0)
    await asking.accounts.standing(KEY)
    asking.bank.away = True
    assert (await asking.accounts.standing(KEY)).workspace_id == "w"
    monkeypatch.setattr(accounts, "STALE_S", 0.0)
    with pytest.raises(BillingUnavailable) as refused:
        await asking.accounts.standing(KEY)
    assert int(refused.value.headers["Retry-After"]) > 0


async def test_while_billing_is_away_nobody_new_is_let_in_or_called_invalid(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UNWATCHED_S", "UNKNOWN_S"):
        monkeypatch.setattr(accounts, name, 0.0)
    with pytest.raises(InvalidKey):
        await asking.accounts.standing("sk-optk-wrong")
    asking.bank.away = True
    for key in (KEY, "sk-optk-wrong"):
        with pytest.raises(BillingUnavailable):
            await asking.accounts.standing(key)


async def test_the_longest_unused_keys_are_forgotten_first(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MOST_KEYS", 2)
    keys = [f"sk-optk-{number}" for number in range(3)]
    asking.bank.known = {digest(key): standing() for key in keys}
    for key in (*keys, keys[2], keys[0]):
        await asking.accounts.standing(key)
    assert asking.bank.asked == [digest(key) for key in (*keys, keys[0])]


async def test_a_key_that_is_in_use_is_not_forgotten(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MOST_KEYS", 2)
    used, unused, new = keys = [f"sk-optk-{number}" for number in range(3)]
    asking.bank.known = {digest(key): standing() for key in keys}
    for key in (used, unused, used, new, used):
        await asking.accounts.standing(key)
    assert asking.bank.asked == [digest(key) for key in keys]


async def test_wrong_keys_do_not_push_out_good_ones(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MOST_KEYS", 2)
    await asking.accounts.standing(KEY)
    for number in range(5):
        with pytest.raises(InvalidKey):
            await asking.accounts.standing(f"sk-optk-wrong-{number}")
    await asking.accounts.standing(KEY)
    assert asking.bank.asked.count(digest(KEY)) == 1


@pytest.mark.parametrize(
    ("account", "code"), [({"revoked_at": PAST}, "invalid_key"), ({"expires_at": PAST}, "expired_key")]
)
async def test_a_key_that_has_ended_opens_no_route(account: dict[str, str], code: str) -> None:
    async with edge(fine) as running:
        running.bank.known[digest(KEY)] = standing(**account)
        assert (await running.ask(HELLO)).code == code
        for path in ("/v1/models", "/v1/credits", "/v1/key", "/v1/generations/x"):
            async with running.session.get(running.url + path, headers={"Authorization": f"Bearer {KEY}"}) as answer:
                assert answer.status == 401
                assert (await answer.json())["error"]["code"] == code
