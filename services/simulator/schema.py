"""Values that fit a JSON schema: what a model answers where JSON, or the arguments of a function, were asked for."""

from typing import Any

MAX_DEPTH = 12  # a recursive schema must end somewhere; no sensible one nests deeper


def sample(schema: Any, word: str) -> Any:
    """The plainest value of the schema; strings that may be anything are `word`, an unreadable schema is null."""
    return _sample(schema, schema, word, MAX_DEPTH)


def _sample(schema: Any, root: Any, word: str, depth: int) -> Any:
    if not isinstance(schema, dict) or depth == 0:
        return None
    if isinstance(options := schema.get("enum"), list) and options:
        return options[0]
    if (other := _other(schema, root)) is not None:
        return _sample(other, root, word, depth - 1)
    kind = _kind(schema)
    if kind == "object":
        properties = schema.get("properties")
        items = properties.items() if isinstance(properties, dict) else ()
        return {name: _sample(inner, root, word, depth - 1) for name, inner in items}
    if kind == "array":
        return [_sample(schema["items"], root, word, depth - 1)] if "items" in schema else []
    plain = {"string": word, "boolean": True, "integer": 1, "number": 1}.get(kind)
    return schema.get("minimum", plain) if kind in ("integer", "number") else plain


def _other(schema: dict[str, Any], root: Any) -> Any:
    """The schema that this one stands for: the target of its reference, or the first branch of its union."""
    if isinstance(ref := schema.get("$ref"), str):
        for step in ref.split("/")[1:]:
            root = root.get(step) if isinstance(root, dict) else None
        return root
    branches = schema.get("anyOf", schema.get("oneOf"))
    return branches[0] if isinstance(branches, list) and branches else None


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list) and kind:
        kind = kind[0]
    return str(kind).lower()
