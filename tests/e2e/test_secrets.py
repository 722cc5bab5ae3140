"""After all that is done with secrets, rightly and wrongly, none of them stands in what is kept, logged or shown."""

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e import stacks
from tests.e2e.raw import Answer, authorized, chat, embed, post, send
from tests.e2e.stacks import ADMIN, AUDITOR, INTERNAL, KEY, Service, Stack
from tests.servers.process import free_ports

GIVEN = "sk-optk-GivenSecret1-" + "g" * 43
WRONG = "sk-optk-WrongSecret1-" + "w" * 43
PROVIDER = "sk-provider-key-of-ours"
PROMPT = "a prompt that is nobody's business"
KEEPS_SECRETS = {"credentials.json", "signing.key"}  # what the local stack keeps them in, for its owner alone
BROKER_PASSWORD = "password-of-a-broker"
NO_BROKER = f"amqp://guest:{BROKER_PASSWORD}@127.0.0.1:1/"


@dataclass
class Seen:
    """A stack, each secret by its name, and every answer but those that made a key."""

    stack: Stack
    secrets: dict[str, str]
    answers: list[Answer] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.stack.services["local"]._keeper.folder

    def public(self, method: str, path: str, headers: Any, body: bytes | None = None, status: int = 200) -> Answer:
        return self._noted(send(self.stack, method, path, headers, body), status)

    def chat(self, key: str, status: int = 200, text: str = PROMPT, **members: Any) -> Answer:
        message = {"role": "user", "content": text}
        return self._noted(
            post(self.stack, "/v1/chat/completions", chat(messages=[message], **members), key=key), status
        )

    def admin(self, method: str, path: str, body: Any = None, status: int = 200, token: str = ADMIN) -> Any:
        answer = self._billing(method, path, body, token)
        return self._noted(answer, status).json

    def make_key(self, **members: Any) -> Any:
        """A new key; the one answer that may show its text."""
        answer = self._billing("POST", "/admin/workspaces/demo/keys", {"label": "app"} | members, ADMIN)
        assert answer.status == 201, answer.body
        return answer.json

    def _billing(self, method: str, path: str, body: Any, token: str) -> Answer:
        address = urlsplit(self.stack.billing_url)
        with contextlib.closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)) as caller:
            caller.request(method, path, None if body is None else json.dumps(body), dict(authorized(token)))
            with caller.getresponse() as response:
                return Answer(response.status, dict(response.getheaders()), response.read())

    def _noted(self, answer: Answer, status: int) -> Answer:
        assert answer.status == status, answer.body
        self.answers.append(answer)
        return answer


@contextlib.contextmanager
def simulator() -> Iterator[str]:
    (port,) = free_ports(1)
    env = {"OPENTOKEN_HOST": "127.0.0.1", "OPENTOKEN_PORT": str(port), "OPENTOKEN_METRICS_PORT": "0"}
    url = f"http://127.0.0.1:{port}"
    with contextlib.closing(Service("simulator", "services.simulator", env, url)) as service:
        service.start()
        yield url


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """All of it happens: keys of every kind, used in every way, and errors of every kind."""
    (metrics_port,) = free_ports(1)
    with simulator() as upstream, stacks.local(_verbose(upstream, metrics_port)) as stack:
        seen = Seen(stack, {"demo key": KEY, "internal": INTERNAL, "admin": ADMIN, "auditor": AUDITOR})
        _use_keys(seen)
        _fail(seen)
        for path in ("log", "quarantine", "conflicts", "workspaces", "workspaces/demo/keys"):
            seen.admin("GET", f"/admin/{path}")
        seen.answers.append(Answer(200, {}, _get(f"http://127.0.0.1:{metrics_port}/metrics")))
        seen.answers.append(Answer(200, {}, _get(f"{stack.billing_url}/v1/export.jsonl", AUDITOR)))
        signing_key = (seen.folder / "signing.key").read_text("utf-8").strip()
        seen.secrets |= {"given": GIVEN, "wrong": WRONG, "provider": PROVIDER, "prompt": PROMPT, "signing": signing_key}
        yield seen


def _verbose(upstream: str, metrics_port: int) -> dict[str, str]:
    return {
        "OPENTOKEN_LOG_LEVEL": "debug",
        "OPENTOKEN_METRICS_PORT": str(metrics_port),
        "ANTHROPIC_API_KEY": PROVIDER,
        "ANTHROPIC_BASE_URL": upstream,
        "GEMINI_API_KEY": "invalid",
        "GOOGLE_GEMINI_BASE_URL": upstream,
    }


def _use_keys(seen: Seen) -> None:
    made, expired = seen.make_key(), seen.make_key(expires_at="2026-01-31T00:00:00Z")
    revoked = seen.make_key(secret=GIVEN)
    seen.secrets |= {"made": made["secret"], "expired": expired["secret"]}
    seen.chat(KEY)
    seen.chat(made["secret"], stream=True)
    seen.chat(GIVEN)
    seen.admin("DELETE", f"/admin/keys/{revoked['key_id']}")
    seen.admin("DELETE", f"/admin/keys/{GIVEN}", status=404)
    seen.admin("PATCH", f"/admin/keys/{revoked['key_id']}", {"label": f"was {GIVEN}"}, 400)
    seen.admin("POST", "/admin/workspaces/demo/keys", {"label": "again", "secret": GIVEN}, 409)
    seen.admin("POST", "/admin/workspaces/demo/keys", {"labels": "bad", "secret": WRONG}, 400)
    seen.admin("POST", "/admin/workspaces/demo/keys", {"label": "bad", "secret": f" {WRONG} "}, 400)
    seen.admin("PATCH", f"/admin/keys/{made['key_id']}", {"label": "x", "secret": WRONG}, 400)
    seen.chat(WRONG, 401)
    seen.chat(expired["secret"], 401)
    for token in (WRONG, INTERNAL, KEY):
        seen.admin("GET", "/admin/workspaces", status=401, token=token)


def _fail(seen: Seen) -> None:
    path = "/v1/chat/completions"
    for header in (f"Basic {KEY}", f"Bearer {KEY} {KEY}", KEY):
        seen.public("GET", "/v1/models", [("Authorization", header)], status=401)
    seen.public("POST", path, authorized(KEY), f'{{"model": "{PROMPT}{KEY}'.encode(), 400)
    seen.public("POST", path, authorized(KEY), json.dumps(chat(messages=PROMPT)).encode(), 400)
    seen.public("GET", f"/v1/models?api_key={KEY}", authorized(WRONG), status=401)
    seen.chat(KEY, 502, f"{PROMPT} [[key_invalid]]")
    seen.chat(KEY, 400, f"{PROMPT} [[status=400]]")
    seen.chat(KEY, 200, f"{PROMPT} [[midstream_error]]", stream=True)
    seen.public("POST", "/v1/embeddings", authorized(KEY), json.dumps(embed(input=PROMPT)).encode(), 502)


def _get(url: str, token: str = "") -> bytes:
    address = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)) as caller:
        caller.request("GET", address.path, headers=dict(authorized(token)))
        return caller.getresponse().read()


def found(kept: bytes, secrets: dict[str, str]) -> set[str]:
    return {name for name, secret in secrets.items() if secret.encode() in kept}


def kept(folder: Path) -> dict[str, bytes]:
    """Every file that a stack wrote, but for those that are there to keep secrets, and its greeting to its owner."""
    files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    lines = files.pop("server.log").splitlines()
    log = b"\n".join(line for line in lines if line.startswith(b"{"))
    return {name: content for name, content in files.items() if name not in KEEPS_SECRETS} | {"log": log}


def test_a_secret_that_is_kept_for_its_owner_is_found_where_it_is_kept(seen: Seen) -> None:
    """So the search itself works."""
    credentials = (seen.folder / "credentials.json").read_bytes()
    assert found(credentials, seen.secrets) == {"demo key", "internal", "admin", "auditor"}


def test_no_secret_is_in_the_database_the_log_or_any_other_file(seen: Seen) -> None:
    files = kept(seen.folder)
    assert b"EndToEndTest" in files["ledger.db"] + files.get("ledger.db-wal", b"")  # the public id of the demo key
    assert b"credit_posted" in files["log"]
    assert {name: found(content, seen.secrets) for name, content in files.items()} == {name: set() for name in files}


def test_no_secret_is_in_an_error_a_list_an_export_or_a_metric(seen: Seen) -> None:
    assert any(b"opentoken_ledger" in answer.body for answer in seen.answers)
    secrets = {name: secret for name, secret in seen.secrets.items() if name != "prompt"}  # the simulator repeats it
    for answer in seen.answers:
        assert found(answer.body + json.dumps(answer.headers).encode(), secrets) == set(), answer.body
        if answer.status != 200:
            assert found(answer.body, seen.secrets) == set(), answer.body


def test_no_secret_is_in_the_usage_that_waits_for_the_broker() -> None:
    with simulator() as upstream:
        env = _verbose(upstream, 0) | {"OPENTOKEN_BROKER_URL": NO_BROKER}
        secrets = {
            "key": KEY,
            "internal": INTERNAL,
            "provider": PROVIDER,
            "prompt": PROMPT,
            "broker": BROKER_PASSWORD,
        }
        with stacks.local(env) as stack:
            seen = Seen(stack, secrets)
            request_id = seen.chat(KEY).headers["x-request-id"]
            files = kept(seen.folder)
    assert any(request_id.encode() in content for content in files.values())
    assert {name: found(content, secrets) for name, content in files.items()} == {name: set() for name in files}
