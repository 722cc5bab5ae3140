import asyncio
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from services.billing import migrations
from services.billing.database import connect
from tests.integration.billing.service import ADMIN, AUDITOR, INTERNAL, until
from tests.servers.process import free_ports

COMMAND = [sys.executable, "-m", "services.billing"]


def environment(database_url: str, broker_url: str, port: int) -> dict[str, str]:
    return os.environ | {
        "OPENTOKEN_DATABASE_URL": database_url,
        "OPENTOKEN_BROKER_URL": broker_url,
        "OPENTOKEN_ADMIN_TOKEN": ADMIN,
        "OPENTOKEN_AUDITOR_TOKEN": AUDITOR,
        "OPENTOKEN_INTERNAL_TOKEN": INTERNAL,
        "OPENTOKEN_HOST": "127.0.0.1",
        "OPENTOKEN_PORT": str(port),
        "OPENTOKEN_METRICS_PORT": "0",
    }


def test_the_service_refuses_to_start_on_a_database_that_was_not_migrated(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    ours = environment(database_url, "amqp://127.0.0.1:1/", 0)
    ended = subprocess.run(COMMAND, env=ours, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "billing cannot start: the schema of " in ended.stderr
    assert "run `python -m services.billing.migrations`" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_the_process_serves_from_ready_until_sigterm_and_then_ends_in_order(
    postgres_url: str, broker_url: str
) -> None:
    engine = connect(postgres_url)
    migrations.upgrade(engine)
    engine.dispose()
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(*COMMAND, env=environment(postgres_url, broker_url, port))
    try:
        await until(partial(_ready, port))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _ready(port: int) -> bool:
    return await asyncio.to_thread(_answers, f"http://127.0.0.1:{port}/ready")


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except HTTPError as error:
        error.close()
        return False
    except URLError:
        return False
