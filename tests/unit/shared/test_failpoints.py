"""Failpoints: off unless asked for, and then exactly where and when they were asked for."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared.failpoints import FAILPOINTS, VARIABLE, Struck, passing, resolved
from tests.sources import ROOT, modules, words

HERE = "billing.before_commit"
ENDS_S = 30.0


def passed_three_times(value: str) -> "subprocess.CompletedProcess[str]":
    program = f"from shared.failpoints import passing\nfor n in '123':\n    print(n, flush=True)\n    passing({HERE!r})"
    env = os.environ | {VARIABLE: value, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=ENDS_S, check=False
    )


def test_a_process_dies_by_sigkill_at_the_passage_that_was_named() -> None:
    done = passed_three_times(f"{HERE}=kill@2")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "1\n2\n")


def test_unset_a_failpoint_is_an_empty_function() -> None:
    assert passing is resolved(None) is resolved("")
    passing(HERE)


def test_other_failpoints_and_later_passages_go_by() -> None:
    armed = resolved(f"{HERE}=raise@2")
    armed("worker.durable")
    armed(HERE)
    with pytest.raises(Struck):
        armed(HERE)
    armed(HERE)


def test_a_pause_ends_when_its_file_is_there(tmp_path: Path) -> None:
    armed = resolved(f"{HERE}=pause:{tmp_path / 'go on'}")
    paused = threading.Thread(target=armed, args=(HERE,))
    paused.start()
    paused.join(0.1)
    assert paused.is_alive()
    (tmp_path / "go on").touch()
    paused.join(ENDS_S)
    assert not paused.is_alive()


@pytest.mark.parametrize("value", ["nowhere=kill", "nowhere.at_all=kill", f"{HERE}=die", f"{HERE}=kill@0", HERE])
def test_a_wrong_value_ends_the_process_at_its_start_and_says_what_there_is(value: str) -> None:
    done = passed_three_times(value)
    assert (done.returncode, done.stdout) == (2, "")
    assert VARIABLE in done.stderr
    assert "Traceback" not in done.stderr
    assert all(name in done.stderr for name in FAILPOINTS) or "kill, stop, raise or pause:FILE" in done.stderr


def test_every_failpoint_stands_in_the_code_once() -> None:
    code = [path for name, path in (modules("services") | modules("shared")).items() if name != "shared.failpoints"]
    found = [word for path in code for word in words(path) if word in FAILPOINTS]
    assert sorted(found) == sorted(FAILPOINTS)


def test_a_stopped_process_goes_on_where_it_was() -> None:
    program = f"from shared.failpoints import passing\npassing({HERE!r})\nprint('went on')"
    env = os.environ | {VARIABLE: f"{HERE}=stop", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as child:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        child.send_signal(signal.SIGCONT)
        said, _ = child.communicate(timeout=ENDS_S)
    assert said == "went on\n"
