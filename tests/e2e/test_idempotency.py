"""The official SDK and an Idempotency-Key: whatever breaks on the way, its own retries are billed once."""

import contextlib
import itertools
import json
import socket
import socketserver
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from shared.ids import new_id
from tests.e2e.stacks import ADMIN, Stack, until

MODEL = "anthropic/claude-haiku-4-5"


@dataclass(frozen=True, slots=True)
class Customer:
    """A workspace of its own, with credit and a key."""

    stack: Stack
    workspace: str
    secret: str

    @contextlib.contextmanager
    def client(self, base_url: str | None = None, **settings: Any) -> Iterator[openai.OpenAI]:
        url = base_url or self.stack.base_url
        with openai.OpenAI(base_url=url, api_key=self.secret, **settings) as client:
            yield client

    def records(self) -> list[dict[str, Any]]:
        return self.stack.audit(f"/v1/workspaces/{self.workspace}/usage")["data"]

    def debits(self) -> list[str]:
        """The requests that were billed."""
        entries = self.stack.audit(f"/v1/workspaces/{self.workspace}/entries")["data"]
        return [entry["request_id"] for entry in entries if entry["contra"] == "revenue"]


@pytest.fixture
def customer(stack: Stack) -> Customer:
    workspace = made(stack, "", name="Retrying")["id"]
    made(stack, f"/{workspace}/credits", amount_usd="5", reference="payment")
    return Customer(stack, workspace, made(stack, f"/{workspace}/keys", label="app")["secret"])


def made(stack: Stack, path: str, **body: str) -> dict[str, Any]:
    """What an administrator made."""
    headers = {"Authorization": f"Bearer {ADMIN}"}
    url = f"{stack.billing_url}/admin/workspaces{path}"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
        return json.load(answer)


def hello(directives: str = "") -> list[Any]:
    return [{"role": "user", "content": f"Say hello to {new_id()} {directives}"}]


@contextlib.contextmanager
def line(stack: Stack, *, losses: int) -> Iterator[str]:
    """The base URL of a line to the edge that breaks, this many times, just when the answer arrives."""
    edge, numbers = urlsplit(stack.base_url), itertools.count()

    class Carrier(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            breaks = next(numbers) < losses
            with socket.create_connection((edge.hostname, edge.port)) as onward:
                forth = threading.Thread(target=carry, args=(self.request, onward))
                forth.start()
                if breaks:
                    onward.recv(1)
                    self.request.shutdown(socket.SHUT_RDWR)
                else:
                    carry(onward, self.request)
                onward.close()
                forth.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Carrier) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        serving.join()


def carry(source: socket.socket, target: socket.socket) -> None:
    """Carry bytes until either end is gone."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


def test_an_answer_lost_on_its_way_is_given_again_to_the_sdks_retry_and_billed_once(customer: Customer) -> None:
    with line(customer.stack, losses=2) as url, customer.client(url, max_retries=3) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=hello(), extra_headers={"Idempotency-Key": new_id()}
        )
    answer = raw.parse()
    assert (raw.retries_taken, raw.headers["x-opentoken-replayed"]) == (2, "true")
    assert answer.id == f"chatcmpl-{raw.headers['x-request-id']}"
    receipt = customer.stack.settled(answer.id)
    assert receipt["outcome"] == "completed"
    assert customer.debits() == [receipt["request_id"]]


def test_an_answer_too_slow_for_the_sdks_patience_is_given_to_its_retry_and_billed_once(customer: Customer) -> None:
    with customer.client(max_retries=4, timeout=0.4) as client:
        client._idempotency_header = "Idempotency-Key"  # the SDK makes a key for each call, and keeps it in retries
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=hello("[[delay_ms=900]]"))
    assert raw.retries_taken >= 1
    customer.stack.settled(raw.headers["x-request-id"])
    assert [record["outcome"] for record in customer.records()] == ["completed"]
    assert customer.debits() == [raw.headers["x-request-id"]]


def test_a_failure_of_the_provider_is_retried_in_earnest(customer: Customer) -> None:
    with customer.client(max_retries=2) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=hello("[[status=529 fail_first=3]]"), extra_headers={"Idempotency-Key": new_id()}
        )
    assert raw.retries_taken == 1
    assert "x-opentoken-replayed" not in raw.headers
    customer.stack.settled(raw.headers["x-request-id"])
    assert sorted(record["outcome"] for record in customer.records()) == ["completed", "upstream_failed"]
    assert customer.debits() == [raw.headers["x-request-id"]]


def test_a_stream_lost_on_its_way_is_billed_once_and_the_refusal_names_its_receipt(customer: Customer) -> None:
    key = {"Idempotency-Key": new_id()}
    with (
        line(customer.stack, losses=1) as url,
        customer.client(url, max_retries=5) as client,
        pytest.raises(openai.ConflictError) as refused,
    ):
        client.chat.completions.create(model=MODEL, messages=hello(), stream=True, extra_headers=key)
    assert refused.value.code == "idempotency_conflict"
    (billed,) = until(customer.debits, "the stream is on the books")
    assert f"/v1/generations/{billed}" in refused.value.message
    assert len(customer.records()) == 1
