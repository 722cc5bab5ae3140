"""The measurements, taken in rounds that interleave the targets; of each figure the minimum is kept.

On a machine that others use, disturbance only ever adds: the minimum is the figure least disturbed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.native import Shape
from tests.bench.processes import cpu_s
from tests.bench.targets import Target

Figures = dict[str, float]
Run = Callable[[Target, Shape], dict[str, Any]]
"""Puts a load on a target, waits until it is on the books, and returns what the load generator saw."""

IN_FLIGHT = 32
STREAMS_PER_S = 64  # half a second each, so 32 in flight; begun one by one, so that their deltas do not come in step
QUIET_PER_S = 40
QUIET_STREAMS_PER_S = 10
WARM_UP_S = 1.0
US_PER_MS = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """How many rounds, how long each load lasts, and how often the embedded stack is started."""

    rounds: int
    seconds: float
    starts: int


FULL, QUICK = Plan(rounds=4, seconds=6.0, starts=3), Plan(rounds=1, seconds=3.0, starts=1)


def best_of(targets: Sequence[Target], plan: Plan, run: Run) -> dict[str, Figures]:
    """The least of each figure, by target."""
    best: dict[str, Figures] = {target.name: {} for target in targets}
    for target in targets:
        warm_up(target, run)
    for _ in range(plan.rounds):
        for measure in (buffered_cpu, stream_cpu, latency, stream_delays):
            for target in targets:
                kept = best[target.name]
                for name, value in measure(target, plan.seconds, run).items():
                    kept[name] = min(value, kept.get(name, value))
    return best


def warm_up(target: Target, run: Run) -> None:
    """Open the connections and fill the caches."""
    for stream in (False, True):
        run(target, Shape(IN_FLIGHT, WARM_UP_S, stream=stream))


def buffered_cpu(target: Target, seconds: float, run: Run) -> Figures:
    """CPU ms for each request, closed loop."""
    return _cpu("request", target, Shape(IN_FLIGHT, seconds), run)


def stream_cpu(target: Target, seconds: float, run: Run) -> Figures:
    """CPU ms for each stream."""
    return _cpu("stream", target, Shape(IN_FLIGHT, seconds, STREAMS_PER_S, stream=True), run)


def _cpu(kind: str, target: Target, shape: Shape, run: Run) -> Figures:
    before = {name: cpu_s(pids) for name, pids in target.groups.items()}
    if not before:
        return {}
    done = run(target, shape)["answered"]
    return {
        f"{name}_cpu_ms_per_{kind}": (cpu_s(pids) - before[name]) * 1000 / done for name, pids in target.groups.items()
    }


def latency(target: Target, seconds: float, run: Run) -> Figures:
    """From sending a request to the last byte of its answer."""
    seen = run(target, Shape(QUIET_PER_S, seconds, QUIET_PER_S))["lat"]
    return {"latency_p50_ms": seen["p50"] / US_PER_MS, "latency_p99_ms": seen["p99"] / US_PER_MS}


def stream_delays(target: Target, seconds: float, run: Run) -> Figures:
    """To the first token, of each delta on its way from the upstream, and from the last delta to the end."""
    seen = run(target, Shape(IN_FLIGHT, seconds, QUIET_STREAMS_PER_S, stream=True))
    return {
        "first_token_p50_ms": seen["ttft"]["p50"] / US_PER_MS,
        "delta_p50_ms": seen["chunk"]["p50"] / US_PER_MS,
        "end_p50_ms": seen["end"]["p50"] / US_PER_MS,
        "end_p99_ms": seen["end"]["p99"] / US_PER_MS,
    }
