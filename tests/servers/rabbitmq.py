"""RabbitMQ: a private broker on this machine, and a fresh virtual host for each test."""

import base64
import contextlib
import http.client
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.servers import debian
from tests.servers.process import Keeper, Process, free_ports
from tests.servers.server import Server, Unavailable, await_version

NAME = "RabbitMQ"
LOGIN = "opentoken:opentoken"
MANAGEMENT_PORT = 15672  # the management plugin's own default
CALL_TIMEOUT_S = 30.0  # deleting a virtual host waits for all of its queues

# RabbitMQ would start the port mapper itself, and leave it behind; started here, it belongs to the process group.
START = '"$1" & until "$1" -names >/dev/null 2>&1; do sleep 0.05; done; exec "$2"'


def version(management: str) -> str:
    """The version of the broker behind a management URL; raises ConnectionError until it takes AMQP connections."""
    _call(management, "GET", "/api/health/checks/protocol-listener/amqp091")
    return str(_call(management, "GET", "/api/overview")["rabbitmq_version"])


def given(url: str, management: str | None) -> Server:
    """The broker at a URL from the environment; its user must be an administrator, its management API in reach."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0] or "guest:guest"
    management = management or f"http://{login}@{parts.hostname}:{MANAGEMENT_PORT}"
    ask = partial(version, management)
    try:
        return Server(NAME, await_version(NAME, ask), "environment", url, management, ask)
    except Unavailable as error:
        raise Unavailable(
            f"{error}\nEach test gets a virtual host of its own, made by the management API: enable the plugin"
            " rabbitmq_management, or set OPENTOKEN_TEST_MANAGEMENT_URL=http://user:password@host:port"
        ) from error


@contextlib.contextmanager
def private() -> Iterator[Server]:
    """A broker of our own on 127.0.0.1, with the management plugin.

    Its data survives SIGKILL, except for a quorum queue younger than about a second (see the test of that).
    """
    sbin, path = _installation()
    amqp, management, distribution, epmd = free_ports(4)
    with contextlib.closing(Keeper("rabbitmq")) as kept:
        env = _environment(kept.folder, f"{sbin}:{path}") | {
            "RABBITMQ_SCRIPTS_DIR": str(sbin),
            "RABBITMQ_NODE_PORT": str(amqp),
            "RABBITMQ_DIST_PORT": str(distribution),
            "ERL_EPMD_PORT": str(epmd),
        }
        _configure(kept.folder, management)
        mapper = shutil.which("epmd", path=path) or "epmd"
        command: list[str | Path] = ["sh", "-c", START, "sh", mapper, sbin / "rabbitmq-server"]
        with contextlib.closing(Process(command, kept, env=env)) as life:
            life.start()
            url, admin_url = f"amqp://{LOGIN}@127.0.0.1:{amqp}/", f"http://{LOGIN}@127.0.0.1:{management}"
            ask = partial(version, admin_url)
            yield Server(NAME, await_version(NAME, ask, life), "private", url, admin_url, ask, life)


@contextlib.contextmanager
def vhost(server: Server) -> Iterator[str]:
    """A new virtual host for the length of the block: its AMQP URL. Who makes it has every right in it."""
    name = f"test-{secrets.token_hex(6)}"
    _call(server.admin_url, "PUT", f"/api/vhosts/{name}")
    try:
        yield urlsplit(server.url)._replace(path=f"/{name}").geturl()
    finally:
        _call(server.admin_url, "DELETE", f"/api/vhosts/{name}")


def manage(server: Server, method: str, path: str, body: object = None) -> Any:
    """One call of the broker's management API, as an administrator. Raises ConnectionError unless it is a success."""
    return _call(server.admin_url, method, path, body)


def _call(management: str, method: str, path: str, body: object = None) -> Any:
    """The JSON of the management API's answer, {} where it has none. Raises ConnectionError unless it is a success."""
    parts = urlsplit(management)
    login = f"{unquote(parts.username or 'guest')}:{unquote(parts.password or 'guest')}"
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "localhost", parts.port, timeout=CALL_TIMEOUT_S)
    headers = {
        "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
        "Content-Type": "application/json",
    }
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        answer = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{parts.hostname}:{parts.port} does not answer: {error!r}") from error
    finally:
        connection.close()
    if response.status >= 300:
        raise ConnectionError(f"{method} {path} at {parts.hostname}:{parts.port}: {response.status} {answer}")
    return json.loads(answer) if answer else {}


def _installation() -> tuple[Path, str]:
    """(the folder of the server's own scripts, the PATH on which they find Erlang): installed, else unpacked."""
    path = os.environ["PATH"]
    if (sbin := debian.server_scripts(Path("/"))) and shutil.which("erl"):
        return sbin, path
    # In Debian's /usr/sbin stands a wrapper that insists on the user rabbitmq.
    if (found := shutil.which("rabbitmq-server")) and not found.startswith("/usr/sbin"):
        return Path(found).resolve().parent, path
    root = debian.unpacked_rabbitmq()
    sbin = debian.server_scripts(root)
    assert sbin, f"{root} is incomplete: remove it"
    return sbin, f"{root}/usr/lib/erlang/bin:{path}"


def _configure(folder: Path, management_port: int) -> None:
    user, _, password = LOGIN.partition(":")
    (folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
    (folder / "rabbitmq.conf").write_text(
        f"default_user = {user}\ndefault_pass = {password}\n"
        f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management_port}\n"
        "disk_free_limit.absolute = 50MB\n"  # a fuller disk than this stops all publishing
    )


def _environment(folder: Path, path: str) -> dict[str, str]:
    ours = {
        "NODENAME": "opentoken@localhost",
        "NODE_IP_ADDRESS": "127.0.0.1",
        "SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "CONF_ENV_FILE": folder / "no-environment-file",
        "CONFIG_FILE": folder / "rabbitmq.conf",
        "ENABLED_PLUGINS_FILE": folder / "enabled_plugins",
        "GENERATED_CONFIG_DIR": folder / "generated",
        "MNESIA_BASE": folder / "data",
        "LOG_BASE": folder,
    }
    return (
        os.environ
        | {f"RABBITMQ_{name}": str(value) for name, value in ours.items()}
        | {
            "HOME": str(folder),  # where Erlang keeps its cookie
            "PATH": path,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RUNNING_UNDER_SYSTEMD": "true",  # the start script then becomes the server: our child's pid is its own
        }
    )
