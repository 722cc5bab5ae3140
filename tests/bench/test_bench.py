"""The benchmark's own parts: its figures are only as good as its generator, its upstream and its clock."""

import os
import subprocess
import sys

import pytest

from tests.bench import native, report
from tests.bench.native import DELTAS, Address, Missing, Shape
from tests.bench.processes import cpu_s
from tests.servers.process import free_ports

BURN = "import time\nwhile time.process_time() < 0.2: pass"


def test_a_machine_without_a_compiler_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match="C compiler"), native.built():
        pass


@pytest.mark.parametrize(("path", "stream"), [("/v1/messages", True), ("/v1/chat/completions", True), ("/", False)])
def test_every_answer_and_every_delta_of_a_stream_is_seen(path: str, stream: bool) -> None:
    (port,) = free_ports(1)
    with native.built() as programs, native.mock(programs, port):
        shape = Shape(connections=4, seconds=0.3, rate=20, stream=stream)
        seen = native.load(programs, Address(port, path, "canned"), shape)
    assert seen["answered"] == seen["lat"]["n"] > 0
    assert (seen["chunk"]["n"] if stream else seen["chunk"]) == (DELTAS * seen["answered"] if stream else None)


def test_a_gateway_that_refuses_fails_the_benchmark() -> None:
    (port,) = free_ports(1)
    with native.built() as programs, pytest.raises(RuntimeError, match="connect"):
        native.load(programs, Address(port, "/", "canned"), Shape(connections=1, seconds=0.1))


def test_cpu_time_includes_children_that_have_ended() -> None:
    before = cpu_s([os.getpid()])
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert cpu_s([os.getpid()]) - before >= 0.15  # /proc rounds down to ticks, user and system apart


def test_delays_are_what_a_gateway_adds_and_cpu_times_are_its_own() -> None:
    best = {
        "direct": {"latency_p50_ms": 0.5},
        "ours": {"latency_p50_ms": 2.0, "gateway_cpu_ms_per_request": 0.4},
    }
    figures = report.compared(best)
    assert figures == {"ours": {"gateway_cpu_ms_per_request": 0.4, "latency_p50_ms": 1.5}}
    assert "0.400    <= 0.208" in report.table(figures)
