"""Calls to Google as its folder sees them, and plans that are driven by hand: no socket, no loop."""

from functools import cache
from typing import Any

import orjson

from services.workers.google.vertex import VertexSupplier
from services.workers.grants import ServiceAccount
from services.workers.memory import BoundedMemory
from services.workers.provider import Call, Supplier, UpstreamReply, UpstreamRequest
from shared import catalog
from shared.openai import ChatRequest, EmbeddingsRequest
from tests.unit.simulator.vertex import EMAIL, PROJECT, key_pair

NOW_S = 1_795_350_000
CATALOG = catalog.load()
GEMINI = Supplier("gemini-1", "https://gemini.example/v1beta", {"x-goog-api-key": "key"})
TOKEN_URI = "https://oauth2.example/token"


@cache
def account() -> ServiceAccount:
    """A service account; the key behind it takes a while to make."""
    from google.auth.crypt import RSASigner  # noqa: PLC0415 - what needs no account needs no key

    return ServiceAccount(EMAIL, TOKEN_URI, None, RSASigner.from_string(key_pair().private))  # type: ignore[no-untyped-call]


def vertex(location: str = "global") -> VertexSupplier:
    """A project at a location."""
    return VertexSupplier(
        name=f"vertex-{location}",
        base_url=f"https://vertex.example/v1/projects/{PROJECT}/locations/{location}",
        headers={},
        flex=location == "global",
        project=PROJECT,
        location=location,
        account=account(),
    )


def chat(
    memory: BoundedMemory, supplier: Supplier = GEMINI, *, workspace: str = "w", request_id: str = "1", **members: Any
) -> Call[ChatRequest]:
    """An attempt at a chat request, by default with a breakpoint behind its system message."""
    policy = [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
    body = {
        "model": "google/gemini-3-flash",
        "messages": [{"role": "system", "content": policy}, {"role": "user", "content": "Hi"}],
    }
    request = ChatRequest.model_validate(body | members)
    return Call(request, CATALOG[request.model], supplier, memory, request_id, workspace, NOW_S)


def embeddings(
    inputs: str | list[str], supplier: Supplier = GEMINI, memory: BoundedMemory | None = None, **members: Any
) -> Call[EmbeddingsRequest]:
    """An attempt at an embeddings request."""
    request = EmbeddingsRequest.model_validate({"model": "google/text-embedding-004", "input": inputs} | members)
    return Call(request, CATALOG[request.model], supplier, memory or BoundedMemory(), "1", "w", NOW_S)


def reply(body: Any, status: int = 200) -> UpstreamReply:
    """What comes back."""
    return UpstreamReply(status, {}, orjson.dumps(body))


def error(status: int, message: str) -> UpstreamReply:
    """A refusal of Google's."""
    return reply({"error": {"code": status, "message": message, "status": "X"}}, status)


def granted(token: str = "ya29.one", expires_in: int = 3600) -> UpstreamReply:
    """What the token endpoint answers."""
    return reply({"access_token": token, "expires_in": expires_in, "token_type": "Bearer"})


class Driven:
    """A plan, its calls answered one by one; `result` is what it returned."""

    def __init__(self, plan: Any) -> None:
        self._plan = plan
        self.result: Any = None
        self.call: UpstreamRequest | None = next(plan, None)

    @property
    def sent(self) -> UpstreamRequest:
        """The call that waits for its reply."""
        assert self.call is not None, "the plan has ended"
        return self.call

    @property
    def body(self) -> Any:
        """Its body."""
        return orjson.loads(self.sent.body)

    def answer(self, reply: UpstreamReply | Exception) -> "Driven":
        """Hand the plan its reply, or the failure to get one."""
        try:
            self.call = self._plan.throw(reply) if isinstance(reply, Exception) else self._plan.send(reply)
        except StopIteration as end:
            self.call, self.result = None, end.value
        return self


def returned(plan: Any) -> Any:
    """What a plan returns that makes no call."""
    try:
        call = next(plan)
    except StopIteration as end:
        return end.value
    raise AssertionError(f"the plan calls {call.url}")
