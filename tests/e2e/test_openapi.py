"""The published description of the API: valid OpenAPI 3.1, and true of real answers."""

import json
import urllib.request
from typing import Any

import openapi_spec_validator
import pytest
from pydantic import BaseModel

from services.edge import answers
from tests.e2e.stacks import Stack

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def document(local_stack: Stack) -> Any:
    return call(local_stack, "/openapi.json")


def call(stack: Stack, path: str, body: Any = None) -> Any:
    return json.loads(raw(stack, path, body))


def raw(stack: Stack, path: str, body: Any = None) -> bytes:
    headers = {"Authorization": f"Bearer {stack.key}", "Content-Type": "application/json"}
    url = stack.base_url.removesuffix("/v1") + path
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
        return answer.read()


def test_the_document_is_valid_openapi(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    openapi_spec_validator.validate(document)


def test_the_document_names_every_route_of_the_edge(document: Any, local_stack: Stack) -> None:
    for path in ("/v1/models", "/v1/credits", "/v1/key", "/health", "/ready"):
        assert "get" in document["paths"][path]
        raw(local_stack, path)
    assert set(document["paths"]["/v1/chat/completions"]) == {"post"}
    assert all(operation["summary"] for methods in document["paths"].values() for operation in methods.values())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_the_document_tells_how_to_ask_once_and_how_a_limited_key_is_refused(document: Any, path: str) -> None:
    operation = document["paths"][path]["post"]
    assert [(one["name"], one["in"]) for one in operation["parameters"]] == [("Idempotency-Key", "header")]
    assert {"Retry-After", "x-should-retry"} <= operation["responses"]["409"]["headers"].keys()
    assert {"Retry-After", "retry-after-ms"} <= operation["responses"]["429"]["headers"].keys()
    told = operation["responses"]["200"]["headers"].keys()
    assert {"x-opentoken-replayed", "x-ratelimit-remaining-requests", "x-ratelimit-reset-tokens"} <= told


def test_requests_in_the_document_are_closed_to_unknown_members(document: Any) -> None:
    for name in ("ChatRequest", "EmbeddingsRequest"):
        assert document["components"]["schemas"][name]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v1/chat/completions", {"model": "anthropic/claude-haiku-4-5", "messages": HELLO}, answers.ChatCompletion),
        ("/v1/chat/completions", {"model": "google/gemini-3-flash", "messages": HELLO}, answers.ChatCompletion),
        ("/v1/embeddings", {"model": "google/text-embedding-004", "input": "x"}, answers.EmbeddingList),
        ("/v1/models", None, answers.ModelList),
        ("/v1/models/google%2Fgemini-3-flash", None, answers.Model),
        ("/v1/credits", None, answers.Credits),
        ("/v1/key", None, answers.Key),
        ("/ready", None, answers.Ready),
    ],
)
def test_real_answers_are_as_the_document_says(
    local_stack: Stack, path: str, body: Any, model: type[BaseModel]
) -> None:
    model.model_validate(call(local_stack, path, body))


def test_real_chunks_are_as_the_document_says(local_stack: Stack) -> None:
    body = {"model": "google/gemini-3-flash", "messages": HELLO, "stream": True}
    lines = raw(local_stack, "/v1/chat/completions", body).decode().split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    for chunk in chunks:
        answers.ChatCompletionChunk.model_validate(chunk)
    assert chunks[-1]["usage"]
