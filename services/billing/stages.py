"""Where the writer's time goes, stage by stage: a metric of the service, and what its benchmark prints."""

import contextlib
import threading
from collections.abc import Iterator
from time import perf_counter
from typing import Final, Literal, get_args

from prometheus_client import Counter

Stage = Literal["decode", "check", "lock", "read", "decide", "tree", "usage_record", "ledger_entry", "spend", "commit"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)

_SECONDS = Counter("opentoken_ledger_stage_seconds_total", "Time the writer spent, by stage of a batch.", ["stage"])
_within = threading.local()  # seconds that stages took within the one that is under way


@contextlib.contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Count the time that the block takes, other stages within it apart."""
    outer, _within.seconds = getattr(_within, "seconds", 0.0), 0.0
    started = perf_counter()
    try:
        yield
    finally:
        took = perf_counter() - started
        _SECONDS.labels(name).inc(took - _within.seconds)
        _within.seconds = outer + took
