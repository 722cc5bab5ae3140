"""RabbitMQ from Debian's (or Ubuntu's) packages, unpacked into our cache: no root, nothing installed or started."""

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.servers.server import Unavailable

DOWNLOAD_TIMEOUT_S = 600.0  # package lists and 34 MB of packages, on a slow line
MISSING = (
    "there is no RabbitMQ for the tests: install Docker or rabbitmq-server, or set OPENTOKEN_TEST_BROKER_URL"
    " (on Debian and Ubuntu it is downloaded with apt; no root is needed)"
)

# Debian's `erl` has /usr/lib/erlang written in.
ERL = """#!/bin/sh
export ROOTDIR="{erlang}" BINDIR="{erts}" EMU=beam PROGNAME=erl
exec "$BINDIR/erlexec" "$@"
"""


def server_scripts(root: Path) -> Path | None:
    """The folder of RabbitMQ's own scripts in a file system, if it is there."""
    return max(root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"), default=None)


def unpacked_rabbitmq() -> Path:
    """The root under which RabbitMQ and its Erlang are unpacked; downloads them the first time. Raises Unavailable."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise Unavailable(MISSING)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "opentoken"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Named for the release, because the packages are linked with its libraries.
        root = cache / f"rabbitmq-{platform.freedesktop_os_release().get('VERSION_CODENAME', 'debian')}"
        with _locked(root.with_suffix(".lock")):
            if not root.exists():
                _unpack(root)
    except subprocess.SubprocessError as error:
        words = getattr(error, "stderr", None) or ""
        raise Unavailable(f"{MISSING}\napt failed: {error}\n{words}") from error
    except OSError as error:
        raise Unavailable(f"the cache cannot be written: {error}. Set XDG_CACHE_HOME to a folder of yours") from error
    return root


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among all test runs of this user; the lock goes with the process that holds it."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(root: Path) -> None:
    """Download into a folder beside `root`, unpack there, and rename at last, so that `root` is whole or not there."""
    work = root.with_suffix(".partial")
    shutil.rmtree(work, ignore_errors=True)
    packages, tree = work / "packages", work / "tree"
    packages.mkdir(parents=True)
    _download(packages, work / "apt")
    for package in packages.glob("*.deb"):
        _run(["dpkg", "-x", package, tree], work)
    erts = next(tree.glob("usr/lib/erlang/erts-*/bin")).relative_to(tree)
    for folder in ("usr/lib/erlang/bin", erts):  # RabbitMQ uses both
        erl = tree / folder / "erl"
        erl.unlink(missing_ok=True)
        erl.write_text(ERL.format(erlang=root / "usr/lib/erlang", erts=root / erts))
        erl.chmod(0o755)
    tree.rename(root)
    shutil.rmtree(work)


def _download(target: Path, state: Path) -> None:
    """Fetch the server and its Erlang with package lists of our own: the machine's may be missing, or not ours."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    ours = (
        "-q", "-o", f"Dir::State={state}", "-o", "Dir::State::status=/var/lib/dpkg/status",
        "-o", f"Dir::Cache={state}/cache", "-o", "APT::Sandbox::User=",
    )  # fmt: skip
    _run(["apt-get", *ours, "update"], target)
    strict = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    listing = _run(["apt-cache", *ours, "depends", "--recurse", *strict, "rabbitmq-server"], target)
    wanted = {name for name in listing.split() if name.startswith(("rabbitmq-server", "erlang-"))}
    wanted -= {"erlang-base-hipe"}  # an alternative to erlang-base that is no more
    _run(["apt-get", *ours, "download", *sorted(wanted)], target)


def _run(command: list[str | Path], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout
