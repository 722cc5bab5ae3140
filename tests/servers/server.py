"""A server that tests use: where it answers, where it comes from, and the power over its life where it is ours."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

START_TIMEOUT_S = 120.0  # RabbitMQ's first start takes 12 s on two idle cores; a busy machine may need ten times that
POLL_S = 0.05

Source = Literal["environment", "docker", "private"]
Ask = Callable[[], str]
"""Returns the server's version; raises ConnectionError while it does not serve."""


class Unavailable(RuntimeError):
    """No server can be had; the message says what to install or to set."""


class Life(Protocol):
    """What runs a server that is ours: a process or a container."""

    @property
    def pid(self) -> int:
        """The process id, as this machine (or the engine's) numbers it."""

    def start(self) -> None:
        """Start it on the data it has; does not wait until it serves."""

    def stop(self) -> None:
        """End it in order and return when it is gone."""

    def kill(self) -> None:
        """End it with SIGKILL and return when it is gone."""

    def run(self, command: Sequence[str]) -> None:
        """Run one of the server's own tools beside it, and return when that succeeded."""

    def failure(self) -> str | None:
        """The end of its log where it has ended, None while it runs."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `admin_url` is where databases and virtual hosts are made; both URLs hold credentials."""

    name: str
    version: str
    source: Source
    url: str
    admin_url: str
    ask: Ask
    life: Life | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.source})"

    @property
    def pid(self) -> int:
        """The server's process id; raises Unavailable, as do the next four, where the server is not ours."""
        return self._ours().pid

    def start(self) -> None:
        """Start it again, same data, same port, and return when it serves."""
        self._ours().start()
        self.await_serving()

    def await_serving(self) -> None:
        """Return when it serves."""
        await_version(self.name, self.ask, self.life)

    def stop(self) -> None:
        """End it in order; its data stays."""
        self._ours().stop()

    def kill(self) -> None:
        """End it with SIGKILL; what it had confirmed stays."""
        self._ours().kill()

    def run(self, *command: str) -> None:
        """Run one of its own tools, such as rabbitmqctl."""
        self._ours().run(command)

    def _ours(self) -> Life:
        if self.life is None:
            raise Unavailable(f"this {self.name} was given by its URL: it is not ours to stop. Unset the variable")
        return self.life


def await_version(name: str, ask: Ask, life: Life | None = None) -> str:
    """The version of a server, as soon as it serves. Raises Unavailable when it ended or the time is up."""
    deadline = time.monotonic() + (START_TIMEOUT_S if life else 0)  # what is given by a URL serves already
    while True:
        try:
            return ask()
        except ConnectionError as error:
            log = life.failure() if life else None
            if log is not None or time.monotonic() > deadline:
                raise Unavailable(f"{name} does not serve: {error}\n{log or ''}") from error
        time.sleep(POLL_S)
