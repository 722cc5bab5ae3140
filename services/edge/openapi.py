"""The OpenAPI 3.1 document of the public API, made of the very models by which requests are checked."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.edge import answers, idempotency
from shared.openai import ChatRequest, EmbeddingsRequest

VERSION = "1"
REF = "#/components/schemas/{model}"
ANSWERS: tuple[type[BaseModel], ...] = (
    answers.ChatCompletion,
    answers.ChatCompletionChunk,
    answers.EmbeddingList,
    answers.ModelList,
    answers.Model,
    answers.Receipt,
    answers.Credits,
    answers.Key,
    answers.Ready,
    answers.Error,
)

Json = dict[str, Any]

ONCE: Json = {
    "name": idempotency.HEADER,
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": idempotency.MAX_KEY_CHARS},
    "description": "The same key and request within 24 hours: the first answer again, and nothing billed for it. "
    "Answers are kept for that time. A stream is not sent again: its second request is a 409.",
}
TOLD = (
    "x-opentoken-cost",
    idempotency.REPLAYED,
    *(f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
)
REFUSED = {
    "409": ("the Idempotency-Key is taken: try again where Retry-After says so", "Retry-After", "x-should-retry"),
    "429": (
        "the key's spend limit or rate limit, or the provider's",
        "Retry-After",
        "retry-after-ms",
        "x-should-retry",
    ),
}

SUMMARIES = {
    "createChatCompletion": "Answer a conversation, whole or as a stream",
    "createEmbeddings": "Turn texts into vectors",
    "listModels": "The models there are",
    "retrieveModel": "One model",
    "retrieveGeneration": "What one request used and cost, as it is in the books",
    "retrieveCredits": "What the workspace has, what is held for requests that run, and what is left",
    "retrieveKey": "The key that asks, with its limits and what it spent",
    "health": "Whether the process lives",
    "ready": "Whether each dependency answers, by name",
}


def document() -> Json:
    """The document, ready to be served."""
    _, definitions = models_json_schema(
        [
            (ChatRequest, "validation"),
            (EmbeddingsRequest, "validation"),
            *((model, "serialization") for model in ANSWERS),
        ],
        ref_template=REF,
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "OpenToken", "version": VERSION, "summary": "OpenAI-compatible, with exact books"},
        "paths": _paths(),
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _paths() -> Json:
    chunks = {"text/event-stream": {"schema": _ref(answers.ChatCompletionChunk)}}
    return {
        "/v1/chat/completions": {"post": _post(ChatRequest, answers.ChatCompletion, "createChatCompletion", chunks)},
        "/v1/embeddings": {"post": _post(EmbeddingsRequest, answers.EmbeddingList, "createEmbeddings")},
        "/v1/models": {"get": _get(answers.ModelList, "listModels")},
        "/v1/models/{id}": {"get": _get(answers.Model, "retrieveModel", "id")},
        "/v1/generations/{id}": {"get": _get(answers.Receipt, "retrieveGeneration", "id")},
        "/v1/credits": {"get": _get(answers.Credits, "retrieveCredits")},
        "/v1/key": {"get": _get(answers.Key, "retrieveKey")},
        "/health": {"get": _get(answers.Ready, "health") | {"security": []}},
        "/ready": {"get": _get(answers.Ready, "ready") | {"security": []}},
    }


def _post(request: type[BaseModel], answer: type[BaseModel], name: str, more: Json | None = None) -> Json:
    body = {"required": True, "content": {"application/json": {"schema": _ref(request)}}}
    refused = {status: _error(*what) for status, what in REFUSED.items()}
    responses = _responses(answer, more or {}, *TOLD) | refused
    operation = {"operationId": name, "summary": SUMMARIES[name]}
    return {**operation, "parameters": [ONCE], "requestBody": body, "responses": responses}


def _get(answer: type[BaseModel], name: str, parameter: str | None = None) -> Json:
    place = {"in": "path", "required": True, "schema": {"type": "string"}}
    parameters = {"parameters": [{"name": parameter, **place}]} if parameter else {}
    operation = {"operationId": name, "summary": SUMMARIES[name]}
    return {**operation, **parameters, "responses": _responses(answer, {})}


def _responses(answer: type[BaseModel], more: Json, *headers: str) -> Json:
    content = {"application/json": {"schema": _ref(answer)}, **more}
    return {
        "200": {"description": "the answer", "headers": _headers(*headers), "content": content},
        "default": _error("an error"),
    }


def _error(description: str, *headers: str) -> Json:
    content = {"application/json": {"schema": _ref(answers.Error)}}
    return {"description": description, "headers": _headers(*headers), "content": content}


def _headers(*names: str) -> Json:
    return {name: {"schema": {"type": "string"}} for name in ("x-request-id", *names)}


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": REF.format(model=model.__name__)}
