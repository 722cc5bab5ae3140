"""Which functions the model calls: those a directive names, those it must, or those the prompt speaks of."""

import re
from typing import Any

from services.simulator import schema
from services.simulator.google.errors import Refusal
from services.simulator.google.models import Gemini
from services.simulator.google.request import FunctionDeclaration, GenerateRequest

MIN_WORD_CHARS = 4  # so that `get` in `get_weather` is not found in every prompt

_WORD = re.compile(r"[A-Za-z][a-z]*")


def calls(request: GenerateRequest, model: Gemini, named: str | None, prompt: str, seed: bytes) -> list[dict[str, Any]]:
    """The calls to make, as the wire's `functionCall` objects. Raises Refusal for a function that is not declared."""
    wanted = _wanted(request, named, prompt)
    word = (re.findall(r"\w+", prompt) or ["word"])[-1]
    made: list[dict[str, Any]] = []
    for i, function in enumerate(wanted):
        parameters = function.parameters_json_schema or function.parameters
        args = schema.sample(parameters, word)
        call: dict[str, Any] = {"name": function.name, "args": args if isinstance(args, dict) else {}}
        made.append(call | ({"id": f"call_{seed[:3].hex()}{i}"} if model.names_calls else {}))
    return made


def _wanted(request: GenerateRequest, named: str | None, prompt: str) -> list[FunctionDeclaration]:
    declared = {function.name: function for function in request.functions}
    if named is not None:
        if unknown := [name for name in named.split(",") if name not in declared]:
            raise Refusal(400, f"directive call: function {unknown[0]!r} is not declared in this request")
        return [declared[name] for name in named.split(",")]
    config = request.tool_config.function_calling_config
    answered = any(part.function_response for part in request.contents[-1].parts)
    if config.mode == "NONE" or answered:
        return []
    allowed = [declared[name] for name in config.allowed_function_names if name in declared] or list(declared.values())
    spoken_of = [function for function in allowed if _is_meant(function.name, prompt.lower())]
    return spoken_of or (allowed[:1] if config.mode == "ANY" else [])


def _is_meant(name: str, prompt: str) -> bool:
    return any(word.lower() in prompt for word in _WORD.findall(name) if len(word) >= MIN_WORD_CHARS)
