"""Packing: every put is answered, in order, in batches within their limits."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bus.packing import WORTHWHILE, Packer
from shared.events import MAX_BATCH_BYTES, MAX_BATCH_EVENTS


class Carrier:
    """Takes batches, holds them while `open` is not set, and refuses those with an item of `refused`."""

    def __init__(self, refused: Sequence[bytes] = ()) -> None:
        self.batches: list[list[bytes]] = []
        self.open = asyncio.Event()
        self.open.set()
        self._refused = refused

    async def send(self, items: Sequence[bytes]) -> None:
        self.batches.append(list(items))
        await self.open.wait()
        if set(items) & set(self._refused):
            raise ConnectionError("refused")


def numbered(sizes: Sequence[int]) -> list[bytes]:
    return [b"%06d" % number + b"x" * size for number, size in enumerate(sizes)]


sizes = st.lists(st.sampled_from([0, 100, 20_000, 40_000, MAX_BATCH_BYTES, 2 * MAX_BATCH_BYTES]), max_size=40)
lanes = st.integers(1, 4)


@given(sizes, lanes)
def test_every_item_is_sent_once_and_in_order_in_batches_within_their_limits(given_: list[int], in_flight: int) -> None:
    async def run() -> None:
        carrier, items = Carrier(), numbered(given_)
        packer = Packer(carrier.send, in_flight=in_flight)
        await asyncio.gather(*map(packer.put, items))
        assert [item for batch in carrier.batches for item in batch] == items
        for batch in carrier.batches:
            assert len(batch) <= MAX_BATCH_EVENTS
            assert len(batch) == 1 or sum(map(len, batch)) <= MAX_BATCH_BYTES

    asyncio.run(run())


@given(st.lists(st.booleans(), min_size=1, max_size=30), lanes)
def test_each_caller_hears_how_its_own_batch_went(fails: list[bool], in_flight: int) -> None:
    async def run() -> None:
        items = numbered([MAX_BATCH_BYTES] * len(fails))  # each alone in its batch
        carrier = Carrier([item for item, fail in zip(items, fails, strict=True) if fail])
        packer = Packer(carrier.send, in_flight=in_flight)
        told = await asyncio.gather(*map(packer.put, items), return_exceptions=True)
        assert [isinstance(one, ConnectionError) for one in told] == fails

    asyncio.run(run())


async def test_a_failed_batch_fails_every_caller_in_it_and_no_other() -> None:
    carrier = Carrier([b"2"])
    packer = Packer(carrier.send, in_flight=1)
    carrier.open.clear()
    first = asyncio.create_task(packer.put(b"0"))
    await asyncio.sleep(0)
    others = [asyncio.create_task(packer.put(item)) for item in (b"1", b"2", b"3")]
    carrier.open.set()
    told = await asyncio.gather(first, *others, return_exceptions=True)
    assert told[0] is None
    assert all(isinstance(one, ConnectionError) for one in told[1:])
    await packer.put(b"4")
    assert carrier.batches == [[b"0"], [b"1", b"2", b"3"], [b"4"]]


async def test_one_item_leaves_at_once_and_those_behind_it_together() -> None:
    carrier = Carrier()
    carrier.open.clear()
    packer = Packer(carrier.send, in_flight=2)
    puts = [asyncio.create_task(packer.put(b"%d" % number)) for number in range(300)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert [len(batch) for batch in carrier.batches] == [1, WORTHWHILE], "no more are in flight than may be"
    carrier.open.set()
    await asyncio.gather(*puts)
    assert [len(batch) for batch in carrier.batches] == [1, WORTHWHILE, MAX_BATCH_EVENTS, 79]


async def test_a_second_batch_leaves_before_the_first_is_done_only_when_it_is_worth_a_message() -> None:
    carrier = Carrier()
    carrier.open.clear()
    packer = Packer(carrier.send, in_flight=2)
    puts = [asyncio.create_task(packer.put(b"%d" % number)) for number in range(WORTHWHILE)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(carrier.batches) == 1
    puts.append(asyncio.create_task(packer.put(b"one more")))
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(carrier.batches) == 2
    carrier.open.set()
    await asyncio.gather(*puts)


@given(st.sets(st.integers(0, 19)))
def test_a_caller_that_gives_up_while_waiting_is_not_sent_and_hinders_nobody(gone: set[int]) -> None:
    async def run() -> None:
        carrier, items = Carrier(), numbered([0] * 20)
        packer = Packer(carrier.send, in_flight=1)
        carrier.open.clear()
        blocker = asyncio.create_task(packer.put(b"first"))
        await asyncio.sleep(0)
        puts = [asyncio.create_task(packer.put(item)) for item in items]
        await asyncio.sleep(0)
        for number in gone:
            puts[number].cancel()
        await asyncio.sleep(0)
        carrier.open.set()
        await blocker
        told = await asyncio.gather(*puts, return_exceptions=True)
        await packer.drain()
        assert [isinstance(one, asyncio.CancelledError) for one in told] == [n in gone for n in range(20)]
        assert [item for batch in carrier.batches[1:] for item in batch] == [
            item for number, item in enumerate(items) if number not in gone
        ]

    asyncio.run(run())


async def test_draining_waits_for_what_waits_and_what_is_under_way() -> None:
    carrier = Carrier()
    carrier.open.clear()
    packer = Packer(carrier.send, in_flight=1)
    puts = [asyncio.create_task(packer.put(b"%d" % number)) for number in range(3)]
    await asyncio.sleep(0)
    drained = asyncio.create_task(packer.drain())
    await asyncio.sleep(0)
    assert not drained.done()
    carrier.open.set()
    await drained
    assert all(put.done() for put in puts)
    assert carrier.batches == [[b"0"], [b"1", b"2"]]


async def test_a_failure_that_nobody_waits_for_any_more_breaks_nothing() -> None:
    carrier = Carrier([b"lost"])
    carrier.open.clear()
    packer = Packer(carrier.send, in_flight=1)
    put = asyncio.create_task(packer.put(b"lost"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    carrier.open.set()
    await packer.put(b"next")
    assert carrier.batches == [[b"lost"], [b"next"]]
