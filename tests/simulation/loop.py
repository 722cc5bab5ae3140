"""An event loop without clock, selector or threads: virtual time, and a seed that decides whose turn it is.

Every callback belongs to a process of the simulation, by its context. Within a process callbacks run in order, as on
any asyncio loop; between processes the order is the seed's. A crashed process is never run again: nothing is
cancelled and no `finally` runs, as with `kill -9`. Code on a thread happens at one moment of virtual time.
"""

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

PROCESS: contextvars.ContextVar["Process"] = contextvars.ContextVar("process")
MOST_FINALLY = 20  # awaits in the `finally` blocks of one task
LAST_EVENTS = 80  # of the trace, enough to see what led to a violation
MOST_IN_A_ROW = 8  # callbacks of one process before the seed chooses again
STEP_S = 1e-6  # a callback takes some time; without it, code that waits for a moment could come to wait for ever
MOST_STEPS = 400_000  # of a whole run; hundreds of times what a run takes


class Threads:
    """What the simulation does around the work of a process's threads, by the name of the thread."""

    def begin(self, thread: str) -> None:
        """Before it; may raise in its place."""

    def done(self, thread: str) -> None:
        """After it; may raise all the same."""

    def known(self, thread: str) -> None:
        """When the process learns of it."""


class Process:
    """One process of the simulation: its turn, its clock, and what becomes of it."""

    def __init__(self, name: str) -> None:
        self.name, self.alive = name, True
        self.ready: deque[asyncio.Handle] = deque()
        self.tasks: list[asyncio.Task[Any]] = []
        self.stalled_until = 0.0
        self.wall_offset_s = 0.0
        self.steps = 0
        self.crash_at: int | None = None
        self.stop = asyncio.Event()
        self.at_crash: list[Callable[[], None]] = []
        self.threads = Threads()
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self)


class Loop(asyncio.BaseEventLoop):
    """The loop of all processes."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng, self.now, self.steps = rng, 0.0, 0
        self.outside = Process("outside")
        self.processes = [self.outside]
        self.gone: list[Process] = []  # kept to the end, so that nothing of a crashed process is ever finalised
        self.trace: deque[str] = deque(maxlen=LAST_EVENTS)
        self.digest = 0
        self.free_at: dict[int, float] = {}
        self.services: dict[str, Any] = {}
        PROCESS.set(self.outside)

    def note(self, event: str, **facts: Any) -> None:
        """Add a line to the trace. What is let go of after the end adds none."""
        if self.is_closed():
            return
        line = f"{self.now:10.4f} {PROCESS.get().name:10} {event} " + " ".join(f"{k}={v}" for k, v in facts.items())
        self.digest = hash_of(self.digest, line)
        self.trace.append(line)

    def spawn(self, process: Process, work: Coroutine[Any, Any, Any]) -> None:
        """Start a process."""
        self.processes.append(process)
        process.context.run(self.create_task, work)

    def crash(self, process: Process) -> None:
        """End a process without its doing."""
        process.ready.clear()
        self.ended(process)
        self.note("crashed", which=process.name, step=process.steps)
        for tell in process.at_crash:
            self.outside.context.run(tell)

    def ended(self, process: Process) -> None:
        """A process has come to its own end."""
        process.alive = False
        self.processes.remove(process)
        self.gone.append(process)

    def time(self) -> float:
        return self.now

    def _check_closed(self) -> None:
        """Nothing: what a dead process does when it is let go of, after the end, is of no consequence."""

    def call_soon(  # type: ignore[override]  # the same, less precisely typed
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        context = context or contextvars.copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        if (process := context[PROCESS]).alive:
            process.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # there are no threads

    def create_task(self, coro: Any, **named: Any) -> Any:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, **named)
        PROCESS.get().tasks.append(task)
        return task

    def _run_once(self) -> None:
        self._wake_timers()
        runnable = [one for one in self.processes if one.ready and one.stalled_until <= self.now]
        if not runnable:
            self._pass_time()
            return
        process = runnable[int(self.rng.random() * len(runnable))]
        for _ in range(1 + int(self.rng.random() * MOST_IN_A_ROW)):
            if not process.ready:
                return
            handle = process.ready.popleft()
            if handle.cancelled():
                continue
            self.steps += 1
            self.now += STEP_S
            process.steps += 1
            if process.steps == process.crash_at:
                self.crash(process)
                return
            handle._run()
        assert self.steps < MOST_STEPS, "the simulation does not come to rest"

    def _wake_timers(self) -> None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # BaseEventLoop's own heap
        while timers and (timers[0].when() <= self.now or timers[0].cancelled()):
            timer = heapq.heappop(timers)
            timer._scheduled = False  # type: ignore[attr-defined]  # what BaseEventLoop does
            process = timer._context[PROCESS]  # type: ignore[attr-defined]  # a handle's context has no public name
            if process.alive and not timer.cancelled():
                process.ready.append(timer)

    def _pass_time(self) -> None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # see above
        moments = [one.stalled_until for one in self.processes if one.ready] + [one.when() for one in timers[:1]]
        assert moments, "nothing will ever happen again"
        self.now = max(self.now, min(moments))

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """The work of a thread: it happens at one moment, after it was asked for, and is known some time later."""
        process, future = PROCESS.get(), self.create_future()
        name = executor._thread_name_prefix
        begin = max(self.free_at.get(id(executor), 0.0), self.now) + self.rng.random() * 0.002
        end = begin + self.rng.random() * 0.002
        self.free_at[id(executor)] = end

        def work() -> None:
            try:
                process.threads.begin(name)
                if process.crash_at == process.steps + 1:
                    return self.crash(process)  # before the thread has come to it
                result = func(*args)
                process.threads.done(name)
            except Exception as error:  # noqa: BLE001 - it is the caller's
                self.call_at(end, settle, future.set_exception, error, context=process.context)
            else:
                self.call_at(end, settle, future.set_result, result, context=process.context)

        def settle(how: Callable[[Any], None], what: Any) -> None:
            process.threads.known(name)
            if not future.done():
                how(what)

        self.call_at(begin, work, context=process.context)
        return future

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        return [(0, 0, 0, "", (address, port)) for address in self.services["network"].addresses(str(host))]

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        return await self.services["network"].connect(factory, host)

    async def create_unix_connection(self, factory: Any, path: Any = None, **_: Any) -> Any:  # type: ignore[override]
        return await self.services["network"].connect(factory, path)

    async def create_server(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        return self.services["network"].listen(factory, host)

    def close(self) -> None:
        """Let go of everything, the crashed included, without a word."""
        super().close()
        asyncio._set_running_loop(self)  # for what is still done in `finally` blocks
        try:
            for task in [task for process in self.processes + self.gone for task in process.tasks if not task.done()]:
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is pending: its process is dead
                _close(task.get_coro())
        finally:
            asyncio._set_running_loop(None)


def _close(work: Any) -> None:
    """Close a coroutine whose `finally` may wait for something, and wait again."""
    for _ in range(MOST_FINALLY):
        try:
            work.close()
        except BaseException:  # noqa: BLE001 - it is the end of a process that is dead already
            continue
        return


def hash_of(before: int, line: str) -> int:
    """A digest that does not depend on the process's hash seed."""
    for byte in line.encode():
        before = (before * 31 + byte) % (2**61 - 1)
    return before
