"""`make run`, as people use it: what it prints works, Ctrl-C ends it, the next start finds the books as they were."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import openai
import pytest

from tests.e2e.books import CREDIT_PICO, cost_pico
from tests.e2e.load import whole
from tests.e2e.stacks import AUDITOR, Service, Stack, fetch
from tests.servers.process import free_ports

PROMPT_S = 10.0  # Ctrl-C, with nothing under way: people wait no longer before they press it again
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
MODEL = "anthropic/claude-haiku-4-5"


@contextlib.contextmanager
def made(env: Mapping[str, str] | None = None) -> Iterator[tuple[Service, Stack]]:
    """`python -m services.local` with ports of its own and no other setting, not yet started."""
    edge, billing = free_ports(2)
    ports = {"OPENTOKEN_EDGE_PORT": str(edge), "OPENTOKEN_BILLING_PORT": str(billing)}
    audit = {"OPENTOKEN_AUDITOR_TOKEN": AUDITOR}
    url = f"http://127.0.0.1:{edge}"
    with contextlib.closing(Service("local", "services.local", ports | audit | dict(env or {}), url)) as service:
        yield service, Stack(f"{url}/v1", f"http://127.0.0.1:{billing}")


@pytest.fixture
def local() -> Iterator[tuple[Service, Stack]]:
    with made() as pair:
        yield pair


def press_ctrl_c(service: Service) -> None:
    os.kill(service.process.pid, signal.SIGINT)


def printed(service: Service, name: str) -> str:
    """A value of the greeting; of the last one, where there were several starts."""
    return re.findall(rf"^ +{name} +(\S.*)$", service.log(), re.MULTILINE)[-1]


def client(stack: Stack, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=stack.base_url, api_key=key, max_retries=0)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_line_that_is_printed_works_as_it_stands(local: tuple[Service, Stack]) -> None:
    service, stack = local
    service.start()
    assert printed(service, "base URL") == stack.base_url
    line = service.log().partition("\n  curl ")[2].partition("\n\n")[0]
    done = subprocess.run(["sh", "-c", f"curl -sS {line}"], capture_output=True, text=True, timeout=30, check=True)
    assert '"object":"chat.completion"' in done.stdout
    assert "simulated  anthropic, google" in service.log()


def test_the_command_line_finds_it_by_its_data_dir(local: tuple[Service, Stack]) -> None:
    service, _ = local
    service.start()
    command = [sys.executable, "-m", "services.cli", "admin", "workspace", "list"]
    env = {name: value for name, value in service.env.items() if name in {"OPENTOKEN_DATA_DIR", "PYTHONPATH", "PATH"}}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert "demo" in done.stdout


def test_ctrl_c_ends_it_and_the_next_start_has_the_same_key_and_balance(local: tuple[Service, Stack]) -> None:
    service, stack = local
    service.start()
    key = printed(service, "key")
    with client(stack, key) as sdk:
        spent = cost_pico(sdk.chat.completions.create(model=MODEL, messages=HELLO).usage)
        started = time.monotonic()
        press_ctrl_c(service)
        assert service.exit_code() == 0
    assert time.monotonic() - started < PROMPT_S
    service.start()
    assert printed(service, "key") == key
    assert stack.balance_pico() == CREDIT_PICO - spent
    with client(stack, key) as sdk:
        assert sdk.chat.completions.create(model=MODEL, messages=HELLO).choices
    assert "Traceback" not in service.log()


def test_an_answer_under_way_at_ctrl_c_is_finished_and_billed(local: tuple[Service, Stack]) -> None:
    service, stack = local
    service.start()
    prompt: list[Any] = [{"role": "user", "content": "A story [[chunks=20 chunk_delay_ms=50]]"}]
    with client(stack, printed(service, "key")) as sdk:
        stream = sdk.chat.completions.create(model=MODEL, messages=prompt, stream=True)
        chunks = [next(stream)]
        press_ctrl_c(service)
        chunks += stream
    assert service.exit_code() == 0
    read = whole(chunks)
    service.start()
    assert stack.settled(read.id)["outcome"] == "completed"
    assert stack.balance_pico() == CREDIT_PICO - read.cost_pico


@pytest.mark.parametrize("name", ["OPENTOKEN_EDGE_PORT", "OPENTOKEN_BILLING_PORT"])
def test_a_port_that_is_taken_is_said_in_a_line_and_not_in_a_traceback(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with made({name: port}) as (service, _):
            service.process.start()
            assert service.process.wait() == 1
            said = service.log().splitlines()
    assert len(said) <= 2
    assert port in said[0]
    assert "OPENTOKEN_EDGE_PORT or OPENTOKEN_BILLING_PORT" in said[-1]


def test_a_provider_with_a_key_is_the_real_one_and_the_other_stays_simulated() -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    simulator = Service(
        "simulator", "services.simulator", {"OPENTOKEN_PORT": str(port), "OPENTOKEN_METRICS_PORT": "0"}, url
    )
    real = {"ANTHROPIC_API_KEY": "sk-ant-real", "ANTHROPIC_BASE_URL": url}
    with contextlib.closing(simulator), made(real) as (service, stack):
        simulator.start()
        service.start()
        assert printed(service, "simulated").startswith("google (")
        with client(stack, printed(service, "key")) as sdk:
            for model in (MODEL, "google/gemini-3-flash"):
                assert sdk.chat.completions.create(model=model, messages=HELLO).choices
        assert [call["provider"] for call in fetch(f"{url}/simulator/served")["served"]] == ["anthropic"]
        assert "sk-ant-real" not in service.log()
