"""What goes wrong: some faults a run, each at its moment and for its time, all by the seed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tests.simulation.world import ASKING_S, World

LASTS_S = 12.0
MOST = 6
NEAR_S = 3.0  # after the beginning of a request, something is under way
Fault = Callable[[World, float], Awaitable[None]]


async def broker_dies(world: World, lasts_s: float) -> None:
    world.broker.kill()
    await asyncio.sleep(lasts_s)
    world.broker.up = True


async def broker_blocks(world: World, lasts_s: float) -> None:
    world.broker.blocked = True
    await asyncio.sleep(lasts_s)
    world.broker.blocked = False


async def broker_refuses(world: World, lasts_s: float) -> None:
    world.broker.refusing = True
    await asyncio.sleep(lasts_s)
    world.broker.refusing = False


async def broker_is_cut_off(world: World, lasts_s: float) -> None:
    for link in world.rng.sample(world.broker.links, k=min(2, len(world.broker.links))):
        link.broken(silently=True)


async def connection_breaks(world: World, lasts_s: float) -> None:
    if world.running:
        process = world.running[world.rng.choice(sorted(world.running))]
        pipes = [pipe for pipe in world.network.pipes if process in {pipe.process, pipe.peer.process}]
        if pipes:
            world.network.cut(pipe := world.rng.choice(pipes))
            world.broke(pipe.process.name, pipe.peer.process.name)


async def process_dies(world: World, lasts_s: float) -> None:
    if world.running:
        world.loop.crash(world.running[world.rng.choice(sorted(world.running))])


async def billing_dies(world: World, lasts_s: float) -> None:
    for name in sorted(world.running.keys() & set(world.network.names["billing"])):
        world.loop.crash(world.running[name])


async def process_is_stopped(world: World, lasts_s: float) -> None:
    """As by SIGSTOP; then SIGCONT."""
    if world.running:
        process = world.running[world.rng.choice(sorted(world.running))]
        process.stalled_until = world.loop.now + lasts_s


async def process_is_told_to_end(world: World, lasts_s: float) -> None:
    """As by SIGTERM."""
    if world.running:
        process = world.running[world.rng.choice(sorted(world.running))]
        process.context.run(process.stop.set)


async def clock_jumps(world: World, lasts_s: float) -> None:
    if world.running:
        process = world.running[world.rng.choice(sorted(world.running))]
        process.wall_offset_s = world.rng.uniform(-7200, 7200)


async def disk_fills(world: World, lasts_s: float) -> None:
    world.conditions.disk_full = world.conditions.disk_was_full = True
    await asyncio.sleep(lasts_s)
    world.conditions.disk_full = False


async def database_goes_away(world: World, lasts_s: float) -> None:
    world.conditions.database_away = True
    await asyncio.sleep(lasts_s)
    world.conditions.database_away = False


FAULTS: tuple[Fault, ...] = (
    broker_dies, broker_blocks, broker_refuses, broker_is_cut_off, connection_breaks, process_dies, billing_dies,
    process_is_stopped, process_is_told_to_end, clock_jumps, disk_fills, database_goes_away,
)  # fmt: skip


async def some(world: World, kinds: Sequence[Fault] = FAULTS) -> None:
    """The faults of a run, of these kinds."""
    rng, loop = world.rng, world.loop

    async def one(fault: Fault, begins_s: float, lasts_s: float) -> None:
        await asyncio.sleep(max(0.0, begins_s))
        loop.note("fault", which=fault.__name__, lasts=round(lasts_s, 2))
        await fault(world, lasts_s)

    chosen = [rng.choice(kinds) for _ in range(rng.randint(0, MOST))]
    begins_s = [rng.choice(world.begins_s) + rng.uniform(-1, NEAR_S) for _ in chosen]
    await asyncio.gather(*(one(*each, rng.random() * LASTS_S) for each in zip(chosen, begins_s, strict=True)))
    await asyncio.sleep(max(0.0, ASKING_S - loop.now))
