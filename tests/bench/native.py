"""The canned upstream and the load generator, in C so that both fit on one core beside what is measured."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e.stacks import until
from tests.servers.process import Keeper, Process

DELTAS = 50
DELTA_EVERY_US = 10_000  # 100 deltas a second, a quick model: slower ones only leave the gateway idle for longer
COMPILE_TIMEOUT_S = 60.0
FINISH_TIMEOUT_S = 30.0  # the generator gives up on answers 15 s after its end
SYSTEM = "You answer for a bookshop. Be brief, be exact, and never promise a date of delivery. " * 5
QUESTION = "Which of the editions that I asked about is still in print, and what does it cost with postage? " * 5


class Missing(RuntimeError):
    """This machine cannot run the benchmark; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One load: for `seconds`, at most `connections` requests in flight, `rate` a second, or as many as go (0)."""

    connections: int
    seconds: float
    rate: int = 0
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    """Where requests go on this machine, and what they ask for."""

    port: int
    path: str
    model: str
    key: str = "none"


@contextlib.contextmanager
def built() -> Iterator[Path]:
    """A folder with the two programs, `mock` and `load`. Raises Missing."""
    if sys.platform != "linux":
        raise Missing("the benchmark needs Linux: its load generator uses epoll, and CPU times come from /proc")
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        raise Missing(
            "the benchmark needs a C compiler for its load generator: cc, gcc or clang (Debian: gcc libc6-dev)"
        )
    with tempfile.TemporaryDirectory(prefix="opentoken-bench-") as name:
        for program in ("mock", "load"):
            _compile(compiler, Path(__file__).with_name(f"{program}.c"), Path(name, program))
        yield Path(name)


def _compile(compiler: str, source: Path, program: Path) -> None:
    command: list[str | Path] = [compiler, "-O2", "-o", program, source]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)
    if done.returncode:
        raise Missing(f"{compiler} cannot compile {source.name}:\n{done.stderr}")


@contextlib.contextmanager
def mock(programs: Path, port: int) -> Iterator[None]:
    """The upstream: it answers Anthropic's, Gemini's and OpenAI's paths at once, and streams a delta per interval."""
    command: list[str | Path] = [programs / "mock", str(port), str(DELTAS), str(DELTA_EVERY_US)]
    with contextlib.closing(Keeper("mock")) as keeper, contextlib.closing(Process(command, keeper)) as process:
        process.start()
        until(partial(_listens, port), "the canned upstream listens", process)
        yield


def _listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def load(programs: Path, address: Address, shape: Shape) -> dict[str, Any]:
    """What the generator saw; times in µs. Raises RuntimeError unless every single answer was a 200, whole."""
    body = programs / "body.json"
    body.write_text(json.dumps(_question(address.model, stream=shape.stream)))
    command: list[str | Path] = [
        programs / "load", "-p", str(address.port), "-P", address.path, "-k", address.key, "-b", body,
        "-c", str(shape.connections), "-d", str(shape.seconds), "-r", str(shape.rate),
    ]  # fmt: skip
    timeout_s = shape.seconds + FINISH_TIMEOUT_S
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s)
    seen: dict[str, Any] = json.loads(done.stdout or "{}")
    if not seen.get("answered") or seen["refused"] or seen["failed"]:
        raise RuntimeError(f"{address.path} on port {address.port} failed under {shape}: {seen} {done.stderr}")
    return seen


def _question(model: str, *, stream: bool) -> dict[str, Any]:
    """A request of about 1 KB, in the members that OpenAI's and Anthropic's APIs share."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
    return {"model": model, "messages": messages, "max_tokens": 256, "temperature": 0.7, "stream": stream}
