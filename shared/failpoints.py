"""Failpoints: where a process may be told to die, so that the crash matrix of billing is tried and not believed.

`OPENTOKEN_FAILPOINT="name=action[@n]"` strikes at the n-th passage (the first, where none is given); unset, as it is
wherever customers are served, a passage is the call of an empty function. Resolved once, at import: a wrong value
ends the process at its start.
"""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

VARIABLE: Final = "OPENTOKEN_FAILPOINT"
POLL_S = 0.01  # how often a pause looks for its file

FAILPOINTS: Final = {
    "edge.before_dispatch": "edge before dispatch",
    "edge.mid_answer": "edge mid-answer",
    "worker.before_first_byte": "worker before the first byte: the provider has begun, the edge has nothing",
    "worker.after_first_byte": "worker after the first byte, of a stream",
    "worker.durable": "worker after the event is durable, before the client has the end",
    "spool.republished": "worker with a full spool, restarted: confirmed by the broker, not yet removed",
    "billing.received": "two consumers at once: before the transaction",
    "billing.before_commit": "billing before commit: all is inserted, under the lock",
    "billing.after_commit": "billing after commit, before the acknowledgement",
}
"""Each name, with the row of the crash matrix that it stands for. The other rows strike at servers, not at us."""

_FORM = re.compile(r"(?P<name>[\w.]+)=(?:(?P<action>kill|stop|raise)|pause:(?P<file>[^@]+))(?:@(?P<n>[1-9][0-9]*))?")


class Struck(RuntimeError):
    """what the action `raise` raises"""


def resolved(value: str | None) -> Callable[[str], None]:
    """The function for `value`. Raises ValueError where it names no failpoint or no action."""
    if not value:
        return _pass
    match = _FORM.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is not name=action[@n], with kill, stop, raise or pause:FILE as the action")
    name, passages = match["name"], int(match["n"] or 1)
    if name not in FAILPOINTS:
        raise ValueError(f"there is no failpoint {name!r}; there are {', '.join(FAILPOINTS)}")
    return _Armed(name, passages, _action(match["action"], Path(match["file"] or "")))


class _Armed:
    """Counts the passages of one failpoint, from whichever thread, and strikes once."""

    def __init__(self, name: str, passages: int, strike: Callable[[], None]) -> None:
        self._name, self._left, self._strike, self._lock = name, passages, strike, threading.Lock()

    def __call__(self, name: str) -> None:
        if name != self._name:
            return
        with self._lock:
            self._left -= 1
            due = self._left == 0
        if due:
            self._strike()


def _pass(_: str) -> None:
    """Off."""


def _action(name: str | None, file: Path) -> Callable[[], None]:
    match name:
        case "kill":
            return lambda: os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            return lambda: os.kill(os.getpid(), signal.SIGSTOP)
        case "raise":
            return _raise
        case _:
            return lambda: _wait_for(file)


def _raise() -> None:
    raise Struck("at a failpoint")


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(POLL_S)


def _from_environment() -> Callable[[str], None]:
    try:
        return resolved(os.environ.get(VARIABLE))
    except ValueError as error:
        sys.stderr.write(f"OpenToken cannot start, because of its settings:\n  {VARIABLE}: {error}\n")
        sys.exit(2)


passing: Final = _from_environment()
"""Call it with a failpoint's name, where that stands in the code."""
