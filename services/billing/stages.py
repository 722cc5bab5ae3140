"""Where the writer's time goes, stage by stage: a metric of the service, and what its benchmark prints."""

import contextlib
from collections.abc import Iterator
from time import perf_counter
from typing import Final, Literal, get_args

from prometheus_client import Counter

Stage = Literal["decode", "check", "lock", "read", "decide", "tree", "usage_record", "ledger_entry", "spend", "commit"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)

_SECONDS = Counter("opentoken_ledger_stage_seconds_total", "Time the writer spent, by stage of a batch.", ["stage"])


@contextlib.contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Count the time that the block takes."""
    started = perf_counter()
    try:
        yield
    finally:
        _SECONDS.labels(name).inc(perf_counter() - started)
