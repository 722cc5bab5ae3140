"""Who computes first: the thread that writes, while others decode in the time in which it waits for the database.

The interpreter runs one thread at a time, each for the same share. But the database has nothing to do until the writer
has sent it something: what is decoded meanwhile makes both wait, and the processor has nothing to do later, when the
writer waits. Measured on a backlog: a batch took a quarter longer.
"""

import contextlib
import threading
from collections.abc import Iterator

PATIENCE_S = 1.0  # a writer that hangs must not hold up the threads on which keys are looked up, too

_nobody_computes = threading.Event()
_nobody_computes.set()


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """The block keeps the writer busy, or gives the database something to do: whoever can wait gives way."""
    _nobody_computes.clear()
    try:
        yield
    finally:
        _nobody_computes.set()


def give_way() -> None:
    """Wait while the writer computes. Called often: between two calls the writer waits."""
    _nobody_computes.wait(PATIENCE_S)
