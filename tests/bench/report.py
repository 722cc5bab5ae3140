"""The table that a person reads, and the line that is kept."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.jsonl")
ROOT = Path(__file__).parents[2]
GIT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table. `added`: what the upstream alone takes is subtracted. `goal`: at most this much."""

    name: str
    words: str
    goal: float | None = None
    added: bool = False


# The CPU goals are TensorZero's figures (0.208, 1.2 x 2.03 ms), the others are the design's.
FIGURES = (
    Figure("gateway_cpu_ms_per_request", "CPU ms / request: edge + worker + publishing", 0.208),
    Figure("edge_cpu_ms_per_request", "  of it the edge"),
    Figure("worker_cpu_ms_per_request", "  of it the worker"),
    Figure("billing_cpu_ms_per_request", "  beside it: billing"),
    Figure("broker_cpu_ms_per_request", "  beside it: RabbitMQ"),
    Figure("database_cpu_ms_per_request", "  beside it: PostgreSQL"),
    Figure("gateway_cpu_ms_per_stream", "CPU ms / stream of 50 deltas: edge + worker + publishing", 2.44),
    Figure("edge_cpu_ms_per_stream", "  of it the edge"),
    Figure("worker_cpu_ms_per_stream", "  of it the worker"),
    Figure("billing_cpu_ms_per_stream", "  beside it: billing"),
    Figure("broker_cpu_ms_per_stream", "  beside it: RabbitMQ"),
    Figure("database_cpu_ms_per_stream", "  beside it: PostgreSQL"),
    Figure("latency_p50_ms", "latency added at 40 requests/s, p50 ms", 1.5, added=True),
    Figure("latency_p99_ms", "latency added at 40 requests/s, p99 ms", 5.0, added=True),
    Figure("first_token_p50_ms", "time to first token added, p50 ms", 1.0, added=True),
    Figure("delta_p50_ms", "each delta's way added, p50 ms", 0.3, added=True),
    Figure("end_p50_ms", "end of stream held back, p50 ms", 2.0, added=True),
    Figure("end_p99_ms", "end of stream held back, p99 ms", 25.0, added=True),
    Figure("edge_idle_mib", "memory of the edge, idle, MiB", 60.0),
    Figure("edge_after_mib", "memory of the edge, after all of this, MiB"),
    Figure("worker_idle_mib", "memory of a worker, idle, MiB", 60.0),
    Figure("worker_after_mib", "memory of a worker, after all of this, MiB"),
    Figure("local_ready_s", "the embedded stack is ready after, s", 2.0),
)


def compared(best: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The figures of each target; of delays, what it adds to the upstream alone. `best` holds that as `direct`."""
    direct = best["direct"]
    return {
        target: {
            figure.name: round(seen[figure.name] - (direct[figure.name] if figure.added else 0), 3)
            for figure in FIGURES
            if figure.name in seen
        }
        for target, seen in best.items()
        if target != "direct"
    }


def table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """One row a figure, one column a target, and the goal."""
    width = max(len(figure.words) for figure in FIGURES)
    lines = ["".join([" " * width, *(f"{name:>12}" for name in figures), f"{'goal':>12}"])]
    for row in FIGURES:
        cells = [f"{values[row.name]:12.3f}" if row.name in values else " " * 12 for values in figures.values()]
        lines.append("".join([row.words.ljust(width), *cells, "" if row.goal is None else f"{f'<= {row.goal}':>12}"]))
    return "\n".join(lines) + "\n"


def keep(figures: Mapping[str, Any], command: str, arguments: Sequence[str]) -> None:
    """Append the run to the results."""
    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {"cores": os.cpu_count(), "cpu": cpu_model(Path("/proc/cpuinfo").read_text())},
        "python": platform.python_version(),
        "command": " ".join([command, *arguments]),
        "figures": figures,
    }
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


def commit() -> str:
    """The commit that was measured, with a `+` where the code differs from it; `unknown` outside a repository."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return name + "+" * bool(_git("status", "--porcelain", "--", "services", "shared"))
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command: list[str | Path] = ["git", "-C", ROOT, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=GIT_TIMEOUT_S).stdout.strip()


def cpu_model(cpuinfo: str) -> str:
    """The processor's name; not every architecture tells it."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1] if found else platform.machine()
