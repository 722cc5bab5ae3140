"""JSON Schemas cut down to what Gemini's parametersJsonSchema and responseJsonSchema take.

Source: ai.google.dev, "Structured output", supported keywords: an allow-list, since others are refused upstream.
"""

from typing import Any

KEYWORDS = frozenset([
    "$id", "$defs", "$ref", "$anchor", "type", "format", "title", "description", "enum", "items", "prefixItems",
    "minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties", "required",
    "propertyOrdering",
])  # fmt: skip
MAPS = frozenset({"properties", "$defs"})  # name → schema: the names are not keywords
TYPE_NAMES = {
    str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", dict: "object", list: "array",
}  # fmt: skip


def supported(schema: Any) -> Any:
    """The schema without what Gemini refuses; a `const` becomes a one-element enum, siblings of a `$ref` go."""
    if not isinstance(schema, dict):
        return [supported(item) for item in schema] if isinstance(schema, list) else schema
    if "$ref" in schema:
        kept = {"$ref": schema["$ref"]}
        return kept | ({"$defs": _map(schema["$defs"])} if "$defs" in schema else {})
    kept = {key: _value(key, value) for key, value in schema.items() if key in KEYWORDS}
    if "const" in schema:
        constant = schema["const"]
        kept = {"type": TYPE_NAMES[type(constant)], "enum": [constant]} | kept
    return kept


def _value(key: str, value: Any) -> Any:
    if key in MAPS:
        return _map(value)
    return value if key in {"enum", "required", "propertyOrdering", "type"} else supported(value)


def _map(schemas: Any) -> Any:
    return {name: supported(schema) for name, schema in schemas.items()} if isinstance(schemas, dict) else schemas
