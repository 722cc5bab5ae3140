"""What the services ask of their machine, answered by the simulation: clocks, ids, chance, logs, ways out, documents.

Patched once for many runs. Nothing of the services' own decisions is replaced.
"""

import asyncio
import contextlib
import random
import select
import sys
import time
from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, NoReturn

import aiohttp
import pytest
import structlog
from sqlalchemy import Engine

from services.billing import migrations
from services.billing import openapi as billing_openapi
from services.edge import app as edge_app
from services.edge import credit, leases
from services.edge import openapi as edge_openapi
from services.edge.billing import TIMEOUT_S
from services.workers import host, settle, upstream
from shared import ids
from tests.simulation.amqp import Link
from tests.simulation.loop import PROCESS, Loop
from tests.simulation.network import Poll
from tests.simulation.provider import ADDRESS

START = datetime(2026, 1, 31, 23, 59, 50, tzinfo=UTC)  # the month, and the UTC day, end during every run
TOLD = ("request_id", "events", "messages", "outcome", "status", "role", "which")  # of a log event, in the trace


def _loop() -> Loop:
    return asyncio.get_running_loop()  # type: ignore[return-value]  # the simulation's


def _monotonic() -> float:
    return _loop().now


class _Datetime(datetime):
    """The wall clock of the process that asks, which may be wrong."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return (START + timedelta(seconds=_loop().now + PROCESS.get().wall_offset_s)).astimezone(tz)

    fromisoformat = datetime.fromisoformat  # type: ignore[assignment]  # an ordinary moment


def _time() -> float:
    return float(_Datetime.now(UTC).timestamp())


def _new_id() -> str:
    loop = _loop()
    moment, chance = f"{round(_time() * 1000):012x}", f"{loop.rng.getrandbits(60):015x}"
    return f"{moment[:8]}-{moment[8:]}-7{chance[:3]}-8{chance[3:6]}-{chance[3:]}"


class _Chance:
    """`random`, by the run's seed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_loop().rng, name)


def _asked(**members: Any) -> settle.Asked:
    return settle.Asked(**members, started=_loop().now)  # its default was bound to the real clock before


def _purse(workspace_id: str, used_at: float) -> leases.Purse:
    return leases.Purse(workspace_id, _new_id(), used_at=used_at)  # as this one's was to real ids


def _session(path: str, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """The simulation's own way out: aiohttp's way to a socket file is the one that asks the loop for a connection."""
    connector = aiohttp.UnixConnector(path, limit=0)
    session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
    _loop().services["connectors"].append(connector)
    return session


def _note(_: Any, __: str, event: MutableMapping[str, Any]) -> NoReturn:
    with contextlib.suppress(RuntimeError):  # outside of a run
        _loop().note(event["event"], **{name: event[name] for name in TOLD if name in event})
    raise structlog.DropEvent


REPLACED: tuple[tuple[str, Any, Any], ...] = (
    ("monotonic", time.monotonic, _monotonic),
    ("time", time.time, _time),
    ("time", time, SimpleNamespace(monotonic=_monotonic, time=_time)),
    ("datetime", datetime, _Datetime),
    ("new_id", ids.new_id, _new_id),
    ("random", random, _Chance()),
    ("select", select, SimpleNamespace(POLLIN=select.POLLIN, poll=Poll)),
)


@contextlib.contextmanager
def machine(engine: Engine) -> Iterator[None]:
    """Let the services run in simulations, for the length of the block. `engine` is the ledger's database."""
    told = structlog.get_config()
    structlog.configure(processors=[_note], cache_logger_on_first_use=False)
    to_provider = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=upstream.IDLE_TIMEOUT_S)
    with pytest.MonkeyPatch.context() as patch:
        for module in [module for name, module in sorted(sys.modules.items()) if _is_ours(name)]:
            for name, real, virtual in REPLACED:
                if getattr(module, name, None) is real:
                    patch.setattr(module, name, virtual)
            if module.__name__.startswith("shared.bus.") and hasattr(module, "Connection"):
                patch.setattr(module, "Connection", Link)
        patch.setattr(host, "Asked", _asked)
        patch.setattr(credit, "Purse", _purse)
        patch.setattr(host, "build_session", partial(_session, ADDRESS, to_provider))
        patch.setattr(edge_app, "build_session", partial(_session, "billing", aiohttp.ClientTimeout(total=TIMEOUT_S)))
        patch.setattr("services.billing.app.connect", lambda _: engine)
        patch.setattr(migrations, "check", lambda _: None)  # it is migrated; slow, and decides nothing
        for openapi in (billing_openapi, edge_openapi):  # the same at every start, and slow to make
            patch.setattr(openapi, "document", cache(openapi.document))
        yield
    structlog.configure(**told)


def _is_ours(name: str) -> bool:
    return name.startswith(("services.", "shared."))
