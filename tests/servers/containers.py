"""PostgreSQL and RabbitMQ in containers, through testcontainers, where a Docker engine answers."""

import contextlib
import gc
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from docker.errors import DockerException, ImageNotFound  # type: ignore[import-untyped]  # it has no types
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient

from tests.servers import postgres as pg
from tests.servers import rabbitmq as rabbit
from tests.servers.process import free_ports
from tests.servers.server import Ask, Server, await_version

POSTGRES = "postgres:17"
RABBITMQ = "rabbitmq:4-management"
STOP_TIMEOUT_S = 30
LOG_LINES = 40
USER = "opentoken"


class Container:
    """A container's life (a Life), on the host's port that it was given: an assigned one would change at a restart."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    @property
    def pid(self) -> int:
        """The process id on the engine's machine; 0 while it is stopped."""
        self._wrapped.reload()
        return int(self._wrapped.attrs["State"]["Pid"])

    def start(self) -> None:
        """Start it again with the file system that it had."""
        self._wrapped.start()

    def stop(self) -> None:
        """Ask it to end, and kill it after STOP_TIMEOUT_S."""
        self._wrapped.stop(timeout=STOP_TIMEOUT_S)

    def kill(self) -> None:
        """Send SIGKILL, and return when it is gone."""
        self._wrapped.kill()
        self._wrapped.wait()

    def run(self, command: Sequence[str]) -> None:
        """Run one of its programs inside it, and return when that succeeded."""
        code, output = self._wrapped.exec_run(list(command))
        assert code == 0, output

    def failure(self) -> str | None:
        """The end of its log where it has ended, None while it runs."""
        self._wrapped.reload()
        if self._wrapped.status == "running":
            return None
        return str(self._wrapped.logs(tail=LOG_LINES), errors="replace")


def available(image: str) -> bool:
    """Whether a Docker engine answers that has the image or can pull it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the client leaves its socket open where no engine answers
        try:
            with contextlib.closing(DockerClient().client) as client:
                _ensure(client, image)
        except (DockerException, OSError):
            return False
        finally:
            gc.collect()
    return True


def _ensure(client: Any, image: str) -> None:
    try:
        client.images.get(image)
    except ImageNotFound:
        client.images.pull(image)


@contextlib.contextmanager
def postgres() -> Iterator[Server]:
    """PostgreSQL in a container of its own."""
    env = {"POSTGRES_USER": USER, "POSTGRES_PASSWORD": USER}
    with _running(POSTGRES, env, 5432) as (container, (address,)):
        url = f"postgresql+psycopg://{USER}:{USER}@{address}/postgres"
        yield _served(pg.NAME, container, url, url, partial(pg.version, url))


@contextlib.contextmanager
def rabbitmq() -> Iterator[Server]:
    """RabbitMQ with its management plugin in a container of its own."""
    env = {"RABBITMQ_DEFAULT_USER": USER, "RABBITMQ_DEFAULT_PASS": USER}
    with _running(RABBITMQ, env, 5672, rabbit.MANAGEMENT_PORT) as (container, (amqp, management)):
        url, admin_url = f"amqp://{USER}:{USER}@{amqp}/", f"http://{USER}:{USER}@{management}"
        yield _served(rabbit.NAME, container, url, admin_url, partial(rabbit.version, admin_url))


@contextlib.contextmanager
def _running(image: str, env: dict[str, str], *ports: int) -> Iterator[tuple[Container, list[str]]]:
    """A container, and `host:port` for each of its ports. It is removed at the end of the block.

    The removal is ours alone: Ryuk, which would see to it after a SIGKILL, is an image that not everyone can pull.
    """
    testcontainers_config.ryuk_disabled = True
    container = DockerContainer(image).with_envs(**env)
    for port, host_port in zip(ports, free_ports(len(ports)), strict=True):
        container.with_bind_ports(port, host_port)
    with container:
        host = container.get_container_host_ip()
        yield Container(container.get_wrapped_container()), [f"{host}:{container.get_exposed_port(p)}" for p in ports]


def _served(name: str, life: Container, url: str, admin_url: str, ask: Ask) -> Server:
    return Server(name, await_version(name, ask, life), "docker", url, admin_url, ask, life)
