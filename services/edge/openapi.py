"""The OpenAPI 3.1 document of the public API, made of the very models by which requests are checked."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.edge import answers
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
    return {"operationId": name, "requestBody": body, "responses": _responses(answer, more or {})}


def _get(answer: type[BaseModel], name: str, parameter: str | None = None) -> Json:
    place = {"in": "path", "required": True, "schema": {"type": "string"}}
    parameters = {"parameters": [{"name": parameter, **place}]} if parameter else {}
    return {"operationId": name, **parameters, "responses": _responses(answer, {})}


def _responses(answer: type[BaseModel], more: Json) -> Json:
    headers = {"x-request-id": {"schema": {"type": "string"}}}
    content = {"application/json": {"schema": _ref(answer)}, **more}
    error = {"application/json": {"schema": _ref(answers.Error)}}
    return {
        "200": {"description": "the answer", "headers": headers, "content": content},
        "default": {"description": "an error", "headers": headers, "content": error},
    }


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": REF.format(model=model.__name__)}
