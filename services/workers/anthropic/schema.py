"""JSON Schemas in the form that output_config.format takes (docs.claude.com, "Structured outputs", limitations).

Objects are closed; `oneOf` becomes `anyOf`; a limit that the API cannot enforce moves into the description, where
the model may still heed it. A test holds this against the official SDK's own clean-up.
"""

from typing import Any

from shared.errors import InvalidRequest

FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
COMBINATIONS = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")

Schema = dict[str, Any]


def strict(schema: Any) -> Schema:
    """The schema as the API takes it. Raises InvalidRequest for a node that says nothing of its type."""
    if not isinstance(schema, dict):
        raise InvalidRequest(f"a schema must be an object, not {schema!r}", param="response_format")
    rest = dict(schema)
    kept: Schema = {"$defs": _each(rest.pop("$defs"))} if rest.get("$defs") is not None else {}
    rest.pop("$defs", None)
    if (reference := rest.pop("$ref", None)) is not None:
        return kept | {"$ref": reference}  # its siblings are refused
    kept |= _kind(rest)
    kept |= {name: rest.pop(name) for name in ("description", "title") if rest.get(name) is not None}
    kept |= _members(kept.get("type"), rest)
    leftover = {name: value for name, value in rest.items() if name not in {"description", "title"}}
    return kept | _described(kept.get("description"), leftover)


def _kind(rest: Schema) -> Schema:
    """What the node is: literals, a combination, or a type; taken out of `rest`."""
    type_ = rest.pop("type", None)
    combinations = {name: rest.pop(name, None) for name in COMBINATIONS}
    literals: Schema = {}
    if isinstance(rest.get("enum"), list) and rest["enum"] and all(map(_is_primitive, rest["enum"])):
        literals["enum"] = rest.pop("enum")
    if "const" in rest and _is_primitive(rest["const"]):
        literals["const"] = rest.pop("const")
    for name, variants in combinations.items():
        if isinstance(variants, list):
            return literals | {COMBINATIONS[name]: [strict(variant) for variant in variants]}
    if literals:
        return literals
    if isinstance(type_, list) and type_:
        variants = [strict(rest | {"type": one}) for one in type_]
        rest.clear()
        return {"anyOf": variants}
    if type_ not in TYPES:
        problem = "a schema needs a type, anyOf, oneOf, allOf, enum or const"
        raise InvalidRequest(f"{problem}; one has {sorted(rest)} and type {type_!r}", param="response_format")
    return {"type": type_}


def _members(type_: str | None, rest: Schema) -> Schema:
    """The keywords that go with a type; taken out of `rest`."""
    if type_ == "object":
        rest.pop("additionalProperties", None)
        required = rest.pop("required", None)
        closed = {"properties": _each(rest.pop("properties", {})), "additionalProperties": False}
        return closed | ({"required": required} if required is not None else {})
    if type_ == "string" and rest.get("format") in FORMATS:
        return {"format": rest.pop("format")}
    if type_ == "array":
        items = {"items": strict(rest.pop("items"))} if rest.get("items") is not None else {}
        return items | ({"minItems": rest.pop("minItems")} if rest.get("minItems") in (0, 1) else {})
    return {}


def _each(schemas: Any) -> Schema:
    return {name: strict(schema) for name, schema in schemas.items()} if isinstance(schemas, dict) else {}


def _described(description: str | None, leftover: Schema) -> Schema:
    if not leftover:
        return {}
    limits = "{" + ", ".join(f"{name}: {value}" for name, value in leftover.items()) + "}"
    return {"description": f"{description}\n\n{limits}" if description else limits}


def _is_primitive(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
