"""CPU time, memory and cores of processes with all their descendants, from /proc (proc(5))."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MIB_PER_PAGE = os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds used so far, user and system, by these processes and their descendants, ended ones included."""
    return sum(sum(map(int, _stat(one)[11:15])) for one in family(pids)) / TICKS_PER_S


def rss_mib(pid: int) -> float:
    """Resident memory of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * MIB_PER_PAGE


def pin(pids: Iterable[int], core: int) -> None:
    """Confine these processes and their descendants, all their threads, to one core."""
    for pid in family(pids):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})


def family(pids: Iterable[int]) -> Iterator[int]:
    """The processes and their descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            children.setdefault(int(_stat(pid)[1]), []).append(pid)
    waiting = list(pids)
    while waiting:
        yield (pid := waiting.pop())
        waiting += children.get(pid, [])


def _stat(pid: int) -> list[str]:
    """The fields after the name, which may itself hold spaces and parentheses: [0] is the state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
