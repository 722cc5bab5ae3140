"""`python -m tests.bench`: measure the gateway here, print one table, append one line to results.jsonl."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from tests.bench import native, report, targets
from tests.bench.native import Missing, Shape
from tests.bench.processes import pin
from tests.bench.rounds import FULL, QUICK, Figures, Plan, best_of
from tests.bench.targets import PEERS, Target
from tests.servers import Unavailable
from tests.servers.process import free_ports


def main() -> None:
    """Measure and print; exit with 1 where this machine lacks something."""
    options = _options()
    try:
        with native.built() as programs, native.mock(programs, options.mock_port):
            best = measured(programs, options, QUICK if options.quick else FULL)
    except (Missing, Unavailable) as error:
        sys.exit(str(error))
    figures = report.compared(best)
    report.keep(figures, "python -m tests.bench", sys.argv[1:])
    sys.stdout.write(report.table(figures))
    if absent := [name for name in PEERS if name not in figures]:
        sys.stdout.write(f"\nNot measured: {', '.join(absent)}. None is installed by this; see --peer.\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, in less than a minute")
    parser.add_argument("--mock-port", type=int, default=free_ports(1)[0], help="where the canned upstream listens")
    parser.add_argument(
        "--peer", type=targets.peer, action="append", default=[], metavar="NAME:PORT:PID:MODEL",
        help="another gateway that runs here with the canned upstream as its provider; may be repeated",
    )  # fmt: skip
    return parser.parse_args()


def measured(programs: Path, options: argparse.Namespace, plan: Plan) -> dict[str, Figures]:
    """The least of each figure, by target; `direct` is the upstream alone."""

    def run(target: Target, shape: Shape) -> dict[str, Any]:
        seen = native.load(programs, target.address, shape)
        target.settle(seen["answered"])
        return seen

    ready_s = min(targets.readiness_s() for _ in range(plan.starts))
    with targets.opentoken(options.mock_port) as ours:
        gateways = [ours, *options.peer]
        _separate_cores(gateways)
        idle = targets.memory_mib(ours)
        best = best_of([targets.direct(options.mock_port), *gateways], plan, run)
        after = targets.memory_mib(ours)
    best[ours.name] |= {f"{name}_idle_mib": mib for name, mib in idle.items()}
    best[ours.name] |= {f"{name}_after_mib": mib for name, mib in after.items()}
    best[ours.name]["local_ready_s"] = ready_s
    return best


def _separate_cores(gateways: list[Target]) -> None:
    """The gateways on one core, everything else, this process's other children included, on another."""
    cores = sorted(os.sched_getaffinity(0))
    pin([os.getpid()], cores[0])
    for gateway in gateways:
        pin(gateway.groups["gateway"], cores[-1])


if __name__ == "__main__":
    main()
