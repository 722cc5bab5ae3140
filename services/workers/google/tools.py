"""Function calling between OpenAI's form and Gemini's (ai.google.dev, "Function calling" and "Thought signatures").

Gemini 3 refuses a history in which the first call of a step lacks the signature it came with. The signature travels
through the client on the tool call (`extra_content.google.thought_signature`), or in OpenRouter's reasoning_details.
Ids that we made up (`call_ot_…`) are never sent upstream.
"""

from typing import Any

import orjson
from pydantic import ValidationError

from services.workers.google.schema import supported
from shared.errors import InvalidRequest
from shared.ids import new_id
from shared.messages import AssistantMessage, NamedTool, TextPart, Tool, ToolCall, ToolChoice, ToolMessage

OUR_PREFIX = "call_ot_"
MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}

Body = dict[str, Any]


def declarations(tools: list[Tool]) -> list[Body]:
    """The `tools` member."""
    functions = [
        {
            "name": tool.function.name,
            **({"description": tool.function.description} if tool.function.description else {}),
            **({"parametersJsonSchema": supported(tool.function.parameters)} if tool.function.parameters else {}),
        }
        for tool in tools
    ]
    return [{"functionDeclarations": functions}]


def tool_config(choice: str | ToolChoice) -> Body:
    """The `toolConfig` member."""
    if isinstance(choice, str):
        return _config(MODES[choice])
    if choice.type == "function":
        if choice.function is None:
            raise InvalidRequest('tool_choice of type "function" needs function.name', param="tool_choice")
        return _config("ANY", [choice.function.name])
    allowed = choice.allowed_tools or {}
    try:
        names = [NamedTool.model_validate(tool["function"]).name for tool in allowed["tools"]]
        return _config(MODES[allowed.get("mode", "auto")], names)
    except (KeyError, TypeError, ValidationError):
        words = 'tool_choice of type "allowed_tools" needs allowed_tools.mode and .tools, each with function.name'
        raise InvalidRequest(words, param="tool_choice") from None


def _config(mode: str, names: list[str] | None = None) -> Body:
    return {"functionCallingConfig": {"mode": mode, **({"allowedFunctionNames": names} if names else {})}}


def call_parts(message: AssistantMessage, *, with_ids: bool) -> list[Body]:
    """The functionCall parts of an assistant turn; a signature is a sibling of the call it came with."""
    parts: list[Body] = []
    for call in message.tool_calls or []:
        part: Body = {
            "functionCall": {"name": call.function.name, "args": _arguments(call), **_id(call.id, with_ids=with_ids)}
        }
        if signature := _signature(call, message):
            part["thoughtSignature"] = signature
        parts.append(part)
    return parts


def _arguments(call: ToolCall) -> Body:
    try:
        arguments = orjson.loads(call.function.arguments or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(f'the arguments of tool call "{call.id}" are not a JSON object', param="messages")
    return arguments


def _id(call_id: str, *, with_ids: bool) -> Body:
    return {"id": call_id} if with_ids and not call_id.startswith(OUR_PREFIX) else {}


def _signature(call: ToolCall, message: AssistantMessage) -> str | None:
    ours = (call.extra_content or {}).get("google")
    if isinstance(ours, dict) and ours.get("thought_signature"):
        return str(ours["thought_signature"])
    details = message.reasoning_details or []
    of_call = (d.get("data") for d in details if d.get("type") == "reasoning.encrypted" and d.get("id") == call.id)
    return next((data for data in of_call if isinstance(data, str)), None)


def tool_results(turn: AssistantMessage, results: list[ToolMessage], *, with_ids: bool) -> list[Body]:
    """One content with the results of a turn, in the order of its calls. Raises InvalidRequest for one too many."""
    found, calls = dict[str, Body](), {call.id: call for call in turn.tool_calls or []}
    for result in results:
        if (call := calls.get(result.tool_call_id)) is None:
            raise InvalidRequest(f'no tool call "{result.tool_call_id}" in the turn before', param="messages")
        response = {"name": call.function.name, "response": _response(result), **_id(call.id, with_ids=with_ids)}
        found[call.id] = {"functionResponse": response}
    parts = [found[id_] for id_ in calls if id_ in found]
    return [{"role": "user", "parts": parts}] if parts else []


def _response(message: ToolMessage) -> Body:
    text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"output": text}


def tool_call(index: int, part: Body) -> Body:
    """An OpenAI tool call, whole, from a functionCall part."""
    call = part["functionCall"]
    signature = part.get("thoughtSignature")
    return {
        "index": index,
        "id": call.get("id") or OUR_PREFIX + new_id().replace("-", ""),
        "type": "function",
        "function": {"name": call.get("name", ""), "arguments": orjson.dumps(call.get("args") or {}).decode()},
        **({"extra_content": {"google": {"thought_signature": signature}}} if signature else {}),
    }
