"""Bodies from outside: strict models, and errors that name the member at fault and its path."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, from_json

from shared.errors import InvalidRequest

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """An object in which an unknown member is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def parse(kind: type[M], sent: bytes | Mapping[str, str]) -> M:
    """The model in a JSON body, or in a query string's parameters, each given once. Raises InvalidRequest."""
    if not isinstance(sent, bytes):
        _once(sent)
    try:
        return kind.model_validate_json(sent) if isinstance(sent, bytes) else kind.model_validate(dict(sent))
    except ValidationError as error:
        raise _explain(error.errors(include_url=False, include_context=False), sent) from None


def _once(parameters: Mapping[str, str]) -> None:
    """Refuse a name that stands twice in a query string: a mapping of many values would keep only one."""
    for name, times in Counter(name for name, _ in parameters.items()).items():
        if times > 1:
            raise InvalidRequest(f"{name}: give it once", param=name)


def _explain(problems: list[ErrorDetails], sent: bytes | Mapping[str, str]) -> InvalidRequest:
    """The error of the deepest problem: of a union's branches, the one that matched furthest."""
    if problems[0]["type"] == "json_invalid":
        return InvalidRequest(f"malformed JSON: {problems[0]['msg'].removeprefix('Invalid JSON: ')}")
    value = from_json(sent) if isinstance(sent, bytes) else sent
    if not isinstance(value, Mapping):
        return InvalidRequest("the body must be a JSON object")
    paths = [(_path(problem["loc"], value), problem) for problem in problems]
    path, problem = max(paths, key=lambda found: (len(found[0]), not found[1]["type"].endswith("_type")))
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    if problem["type"] == "extra_forbidden":
        return InvalidRequest(f'unknown member "{name}"', param=name)
    if problem["type"] == "missing":
        return InvalidRequest(f'missing member "{name}"', param=name)
    message = problem["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{name}: {message}" if name else message, param=name or None)


def _path(loc: tuple[int | str, ...], value: Any) -> list[int | str]:
    """The part of pydantic's location that stands in the body as sent: union tags and type names are left out."""
    path: list[int | str] = []
    for place, step in enumerate(loc):
        if isinstance(value, Mapping) and (step in value or place == len(loc) - 1):
            path.append(step)
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            path.append(step)
            value = value[step]
    return path
