"""The OpenAPI 3.1 document of billing's API, made of the very models by which requests are checked.

`/internal` is left out: it is between our own services.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.billing import admin_answers, admin_bodies, answers, bodies
from services.billing.admin_log import ACTOR_HEADER, MAX_ACTOR_CHARS

VERSION = "1"
REF = "#/components/schemas/{model}"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route takes and gives; `media` is what it gives where that is no JSON."""

    name: str
    summary: str
    answer: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    media: str | None = None


OPERATIONS = {
    ("get", "/v1/workspaces/{id}/balance"): Operation(
        "balance", "What a workspace has, and after which entry", answers.Balance
    ),
    ("get", "/v1/workspaces/{id}/usage"): Operation(
        "listUsage", "A workspace's usage records in the order of the books", answers.UsageList, bodies.UsageQuery
    ),
    ("get", "/v1/workspaces/{id}/entries"): Operation(
        "listEntries", "A workspace's ledger entries by number", answers.EntryList, bodies.EntriesQuery
    ),
    ("get", "/v1/generations/{id}"): Operation(
        "receipt",
        "What one request used and cost, with its debit and the proofs of both",
        answers.Receipt,
        bodies.ReceiptQuery,
    ),
    ("get", "/v1/statements/{workspace}/{month}"): Operation(
        "statement", "A workspace's month: opening balance, movements, closing balance", answers.Statement
    ),
    ("get", "/v1/checkpoints"): Operation(
        "listCheckpoints",
        "Signed checkpoints of a shard's tree by size",
        answers.CheckpointList,
        bodies.CheckpointsQuery,
    ),
    ("get", "/v1/checkpoints/{size}"): Operation(
        "checkpoint", "The signed checkpoint of a size, or the latest", answers.Checkpoint, bodies.ShardQuery
    ),
    ("get", "/v1/proofs/inclusion"): Operation(
        "inclusion", "The proof that a leaf is in a signed tree", answers.Inclusion, bodies.InclusionQuery
    ),
    ("get", "/v1/proofs/consistency"): Operation(
        "consistency",
        "The proof that a signed tree begins with an earlier one",
        answers.Consistency,
        bodies.ConsistencyQuery,
    ),
    ("get", "/v1/export.jsonl"): Operation(
        "exportLeaves",
        "The books as leaves, one a line, byte for byte as they were hashed",
        query=bodies.ExportQuery,
        media="application/jsonl",
    ),
    ("get", "/v1/export.csv"): Operation(
        "exportTable", "The records or the entries as a table", query=bodies.TableQuery, media="text/csv"
    ),
    ("post", "/admin/workspaces"): Operation(
        "createWorkspace", "Make a workspace", admin_answers.Workspace, body=admin_bodies.NewWorkspace
    ),
    ("get", "/admin/workspaces"): Operation(
        "listWorkspaces", "All workspaces by id", admin_answers.WorkspaceList, bodies.PageQuery
    ),
    ("get", "/admin/workspaces/{id}"): Operation("workspace", "One workspace", admin_answers.Workspace),
    ("patch", "/admin/workspaces/{id}"): Operation(
        "changeWorkspace",
        "Change a workspace's name, or whether it is strict",
        admin_answers.Workspace,
        body=admin_bodies.WorkspaceChanges,
    ),
    ("post", "/admin/workspaces/{id}/keys"): Operation(
        "createKey", "Make a key; its text is in this answer only", admin_answers.MadeKey, body=admin_bodies.NewKey
    ),
    ("get", "/admin/workspaces/{id}/keys"): Operation(
        "listKeys", "A workspace's keys by id", admin_answers.KeyList, bodies.PageQuery
    ),
    ("get", "/admin/keys/{key_id}"): Operation("key", "One key and its limits, without its text", admin_answers.Key),
    ("patch", "/admin/keys/{key_id}"): Operation(
        "changeKey", "Change a key's label, expiry or limits", admin_answers.Key, body=admin_bodies.KeyChanges
    ),
    ("delete", "/admin/keys/{key_id}"): Operation("revokeKey", "Revoke a key, for ever", admin_answers.Key),
    ("post", "/admin/workspaces/{id}/credits"): Operation(
        "credit", "Post a payment or a promotion, once for each reference", answers.Entry, body=admin_bodies.NewCredit
    ),
    ("post", "/admin/workspaces/{id}/refunds"): Operation(
        "refund", "Take an entry back, in whole or in part", answers.Entry, body=admin_bodies.NewRefund
    ),
    ("post", "/admin/workspaces/{id}/adjustments"): Operation(
        "adjust", "Correct a balance by an entry of its own", answers.Entry, body=admin_bodies.NewAdjustment
    ),
    ("get", "/admin/log"): Operation(
        "log", "What administrators called, with the newest last", admin_answers.Log, bodies.LogQuery
    ),
    ("get", "/admin/quarantine"): Operation(
        "listQuarantine", "Usage that could not be booked, by time", admin_answers.QuarantineList, bodies.PeriodQuery
    ),
    ("get", "/admin/quarantine/{digest}"): Operation(
        "quarantined", "One of it, whole, with the reason", admin_answers.Quarantined
    ),
    ("get", "/admin/conflicts"): Operation(
        "listConflicts",
        "Second records of a request that differ from the first, by time",
        admin_answers.ConflictList,
        bodies.PeriodQuery,
    ),
    ("get", "/admin/conflicts/{digest}"): Operation(
        "conflict", "One of them, with the record that stands", admin_answers.Conflict
    ),
    ("get", "/health"): Operation("health", "Whether the process lives", answers.Ready),
    ("get", "/ready"): Operation("ready", "Whether each dependency answers, by name", answers.Ready),
}
OPEN = ("/health", "/ready")
ACTOR: Json = {
    "name": ACTOR_HEADER,
    "in": "header",
    "description": "which person calls, for the log and for entries",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ACTOR_CHARS},
}


def document() -> Json:
    """The document, ready to be served."""
    taken = [(model, "validation") for one in OPERATIONS.values() for model in (one.body, one.query) if model]
    given = [(one.answer, "serialization") for one in OPERATIONS.values() if one.answer]
    _, schemas = models_json_schema([*taken, *given, (answers.Error, "serialization")], ref_template=REF)  # type: ignore[list-item]
    definitions = schemas["$defs"]
    paths: Json = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method] = _operation(path, method, operation, definitions)
    queries = {one.query.__name__ for one in OPERATIONS.values() if one.query}
    return {
        "openapi": "3.1.0",
        "info": {"title": "OpenToken billing", "version": VERSION, "summary": "The books: read, prove, administer"},
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in definitions.items() if name not in queries},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(path: str, method: str, operation: Operation, definitions: Json) -> Json:
    parameters = [*_path_parameters(path), *_query_parameters(operation.query, definitions)]
    if path.startswith("/admin/"):
        parameters.append(ACTOR)
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": _responses(method, operation),
    }
    if parameters:
        described["parameters"] = parameters
    if operation.body:
        described["requestBody"] = {"required": True, "content": _json(operation.body)}
    if path in OPEN:
        described["security"] = []
    return described


def _path_parameters(path: str) -> Iterator[Json]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(query: type[BaseModel] | None, definitions: Json) -> Iterator[Json]:
    """A query model's members, each as a parameter of its own."""
    schema = definitions[query.__name__] if query else {}
    for name, member in schema.get("properties", {}).items():
        yield {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": member}


def _responses(method: str, operation: Operation) -> Json:
    headers = {"x-request-id": {"schema": {"type": "string"}}}
    content = _json(operation.answer) if operation.answer else {operation.media: {"schema": {"type": "string"}}}
    return {
        "201" if method == "post" else "200": {"description": "the answer", "headers": headers, "content": content},
        "default": {"description": "an error", "headers": headers, "content": _json(answers.Error)},
    }


def _json(model: type[BaseModel]) -> Json:
    return {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}
