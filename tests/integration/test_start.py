"""How the services start at a broker that cannot serve them: not at all, and they say why."""

import asyncio
import os
import re
import sys
from pathlib import Path

import aio_pika

from shared.events import queue_of

SERVICES = ("services.edge", "services.workers.google", "services.billing", "services.local")
DEADLINE_S = 60.0


async def ended(service: str, broker_url: str, folder: Path) -> tuple[int | None, str]:
    """The exit code of a service, and what it said."""
    token = "token-of-this-test-only"
    ours = {
        "OPENTOKEN_BROKER_URL": broker_url,
        "OPENTOKEN_DATABASE_URL": f"sqlite:///{folder}/ledger.db",
        "OPENTOKEN_DATA_DIR": str(folder),
        "OPENTOKEN_HOST": "127.0.0.1",
        "OPENTOKEN_PORT": "0",
        "OPENTOKEN_METRICS_PORT": "0",
        "OPENTOKEN_EDGE_PORT": "0",
        "OPENTOKEN_BILLING_PORT": "0",
        **{f"OPENTOKEN_{whose}_TOKEN": token for whose in ("INTERNAL", "ADMIN", "AUDITOR")},
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", service, env=os.environ | ours,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE_S):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, said.decode()


async def test_every_service_ends_with_1_and_names_both_where_a_queue_has_other_arguments(
    broker_url: str, tmp_path: Path
) -> None:
    async with await aio_pika.connect(broker_url) as connection:
        await (await connection.channel()).declare_queue(queue_of(0), durable=True)
        results = await asyncio.gather(*(ended(name, broker_url, tmp_path / name) for name in SERVICES))
    for code, said in results:
        assert code == 1
        (line,) = [line for line in said.splitlines() if "cannot start" in line]
        assert re.search(r"inequivalent arg '[\w-]+' for queue 'billing\.usage\.0'", line)
        assert "this version needs 'billing.usage.0' to be a durable queue with {'x-queue-type': 'quorum'" in line
        assert "Traceback" not in said
