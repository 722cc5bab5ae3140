"""A server's process on this machine, and the keeper that ends it and removes its folder when we are gone.

The keeper is a shell that reads from a pipe which only we hold open. The pipe ends when we close it, and also when we
die by SIGKILL; unlike a parent-death signal this needs no Linux and does not hang on the thread that started a server.
"""

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.server import Unavailable

PORTS = range(20_000, 32_000)  # below the ports of outgoing connections, any of which could sit on ours (Linux: 32768)
STOP_TIMEOUT_S = 30.0  # RabbitMQ takes up to 8 s to end in order on two idle cores
TOOL_TIMEOUT_S = 120.0  # rabbitmqctl starts an Erlang of its own: 2 s on idle cores, over 30 s were seen on busy ones
GONE_TIMEOUT_S = 20.0  # after SIGKILL only the kernel has work left, and PostgreSQL's children notice at once
LOG_END_CHARS = 3000

# Each line read is the process group to kill at the end; an empty one means that there is none now.
# Whoever outlives the group's leader for a moment may still write, so removing is tried again.
KEEPER = """
group=
while read -r line; do group=$line; done
[ -z "$group" ] || kill -s KILL -- "-$group"
for _ in 1 2 3 4 5; do rm -rf -- "$1" && break; sleep 1; done
"""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now; drawn at random, so that two test runs do not meet."""
    free: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(free) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free.append(port)
    return free


class Keeper:
    """A folder for one server's data, which goes, with the server, when we end: in order or by SIGKILL."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"opentoken-{name}-"))
        command = ["sh", "-c", KEEPER, f"{name}-keeper", str(self.folder)]
        # A session of its own: Ctrl-C and a closed terminal end us, and the keeper has to outlive us.
        self._shell = subprocess.Popen(
            command, cwd="/", start_new_session=True, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def watch(self, group: int | None) -> None:
        """Make `group` the process group that ends with us; None: there is none at the moment."""
        assert self._shell.stdin
        self._shell.stdin.write(f"{group or ''}\n")
        self._shell.stdin.flush()

    def close(self) -> None:
        """End what runs, remove the folder, and return when both are done."""
        self._shell.communicate()


class Process:
    """A server's process (a Life): it leads a process group, logs into its keeper's folder, and can start again."""

    def __init__(
        self,
        command: Sequence[str | Path],
        kept: Keeper,
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._command, self._kept, self._env, self._user, self._stop_signal = command, kept, env, user, stop_signal
        self._log = kept.folder / "server.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._family = -1

    @property
    def pid(self) -> int:
        """The server's process id. Raises Unavailable while it is stopped."""
        return self._running().pid

    def start(self) -> None:
        """Start the server on the data it has; does not wait until it serves."""
        assert self._child is None, "already started"
        # Every descendant inherits the other end of this pipe: its end of file says that the last one is gone.
        self._family, inherited = os.pipe()
        try:
            with self._log.open("ab") as log:
                self._child = subprocess.Popen(
                    self._command, env=self._env, user=self._user, cwd=self._kept.folder, process_group=0,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(inherited,),
                )  # fmt: skip
        except OSError as error:
            os.close(self._family)
            raise Unavailable(f"{self._command[0]} does not start: {error}") from error
        finally:
            os.close(inherited)
        self._kept.watch(self._child.pid)

    def wait(self) -> int:
        """The exit code of a process that ends by itself."""
        return self._running().wait(STOP_TIMEOUT_S)

    def stop(self) -> None:
        """Ask the server to end, and kill what is left after STOP_TIMEOUT_S."""
        child = self._running()
        child.send_signal(self._stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the server and all of its group, and return when every descendant is gone."""
        child = self._running()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        self._kept.watch(None)
        gone, _, _ = select.select([self._family], [], [], GONE_TIMEOUT_S)
        os.close(self._family)
        self._child = None
        assert gone, f"children of {self._command[0]} outlive it"

    def run(self, command: Sequence[str]) -> None:
        """Run another program in the server's environment and folder, and return when it succeeded."""
        subprocess.run(
            command, env=self._env, user=self._user, cwd=self._kept.folder, check=True, capture_output=True,
            timeout=TOOL_TIMEOUT_S,
        )  # fmt: skip

    def failure(self) -> str | None:
        """The end of the log where the server has ended, None while it runs."""
        if self._child and self._child.poll() is None:
            return None
        return self._log.read_text(errors="replace")[-LOG_END_CHARS:]

    def close(self) -> None:
        """Kill the server if it runs: its data goes next, so there is nothing to end in order."""
        if self._child:
            self.kill()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise Unavailable(f"{self._command[0]} is stopped")
        return self._child
