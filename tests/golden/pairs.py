"""Conversations told twice: as an OpenAI request, and as the arguments of the provider's own SDK."""

from typing import Any

import anthropic

PNG = "iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "now", "description": "The time", "parameters": SCHEMA}}
SIGNATURE = "Z29sZGVuLXNpZ25hdHVyZQ=="
CALLED: dict[str, Any] = {"role": "assistant", "content": "Let me see.", "tool_calls": [
    {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": '{"a":1}'},
     "extra_content": {"google": {"thought_signature": SIGNATURE}}},
]}  # fmt: skip


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
ANTHROPIC: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a plain question": (
        {"model": "anthropic/claude-sonnet-4-6", "messages": [{"role": "user", "content": "hi"}]},
        {"model": "claude-sonnet-4-6", "max_tokens": 16384, "messages": [{"role": "user", "content": [text("hi")]}]},
    ),
    "a conversation with instructions, a picture and breakpoints": (
        {
            "model": "anthropic/claude-haiku-4-5",
            "max_tokens": 300,
            "temperature": 0.5,
            "top_k": 5,
            "stop": ["END"],
            "messages": [
                {"role": "system", "content": [text("Be brief.", **HOUR)]},
                {"role": "user", "content": [
                    text("What is this?"), {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                ]},
                {"role": "assistant", "content": "A dot."},
                {"role": "user", "content": [text("And now?", cache_control={"type": "ephemeral"})]},
            ],
        },
        {
            "model": "claude-haiku-4-5-20251001",
            "max_tokens": 300,
            "system": [text("Be brief.", **HOUR)],
            "stop_sequences": ["END"],
            "messages": [
                {"role": "user", "content": [
                    text("What is this?"),
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                ]},
                {"role": "assistant", "content": [text("A dot.")]},
                {"role": "user", "content": [text("And now?", cache_control={"type": "ephemeral"})]},
            ],
            "extra_body": {"temperature": 0.5, "top_k": 5},
        },
    ),
    "a budget of thoughts, streamed": (
        {
            "model": "anthropic/claude-haiku-4-5",
            "stream": True,
            "max_tokens": 4096,
            "reasoning": {"effort": "medium"},
            "messages": [{"role": "user", "content": "hi"}],
        },
        {
            "model": "claude-haiku-4-5-20251001",
            "stream": True,
            "max_tokens": 4096,
            "thinking": {"type": "enabled", "budget_tokens": 2048},
            "messages": [{"role": "user", "content": [text("hi")]}],
        },
    ),
    "an effort and a schema": (
        {
            "model": "anthropic/claude-opus-4-7",
            "max_tokens": 2000,
            "reasoning_effort": "xhigh",
            "response_format": JSON_SCHEMA,
            "messages": [{"role": "user", "content": "hi"}],
        },
        {
            "model": "claude-opus-4-7",
            "max_tokens": 2000,
            "thinking": {"type": "adaptive", "display": "summarized"},
            "output_config": {
                "effort": "xhigh",
                "format": {"type": "json_schema", "schema": anthropic.transform_schema(SCHEMA)},
            },
            "messages": [{"role": "user", "content": [text("hi")]}],
        },
    ),
}  # fmt: skip
GOOGLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a plain question": (
        {"model": "google/gemini-3-flash", "messages": [{"role": "user", "content": "hi"}]},
        {"model": "gemini-3-flash-preview", "contents": "hi"},
    ),
    "a conversation with instructions, a picture and sampling": (
        {
            "model": "google/gemini-2.5-pro",
            "max_tokens": 300,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 5,
            "seed": 7,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "stop": ["END"],
            "reasoning": {"max_tokens": 200},
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [
                    text("What is this?"), {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.webp"}},
                ]},
                {"role": "assistant", "content": "A dot."},
                {"role": "user", "content": "And now?"},
            ],
        },
        {
            "model": "gemini-2.5-pro",
            "contents": [
                {"role": "user", "parts": [
                    {"text": "What is this?"}, {"inline_data": {"mime_type": "image/png", "data": PNG}},
                    {"file_data": {"mime_type": "image/webp", "file_uri": "https://example.com/a.webp"}},
                ]},
                {"role": "model", "parts": [{"text": "A dot."}]},
                {"role": "user", "parts": [{"text": "And now?"}]},
            ],
            "config": {
                "system_instruction": {"parts": [{"text": "Be brief."}]},
                "max_output_tokens": 300,
                "temperature": 0.5,
                "top_p": 0.9,
                "top_k": 5,
                "seed": 7,
                "presence_penalty": 0.5,
                "frequency_penalty": -0.5,
                "stop_sequences": ["END"],
                "thinking_config": {"thinking_budget": 200, "include_thoughts": True},
            },
        },
    ),
    "tools, streamed": (
        {
            "model": "google/gemini-3.1-pro",
            "stream": True,
            "reasoning_effort": "low",
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "now"}},
            "messages": [
                {"role": "user", "content": "hi"},
                CALLED,
                {"role": "tool", "tool_call_id": "call_1", "content": '{"b":2}'},
            ],
        },
        {
            "model": "gemini-3.1-pro-preview",
            "contents": [
                {"role": "user", "parts": [{"text": "hi"}]},
                {"role": "model", "parts": [
                    {"text": "Let me see."},
                    {
                        "function_call": {"id": "call_1", "name": "now", "args": {"a": 1}},
                        "thought_signature": SIGNATURE,
                    },
                ]},
                {"role": "user", "parts": [
                    {"function_response": {"id": "call_1", "name": "now", "response": {"b": 2}}},
                ]},
            ],
            "config": {
                "thinking_config": {"thinking_level": "LOW", "include_thoughts": True},
                "tools": [{"function_declarations": [
                    {"name": "now", "description": "The time", "parameters_json_schema": SCHEMA},
                ]}],
                "tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["now"]}},
                "automatic_function_calling": {"disable": True},
            },
        },
    ),
    "a schema": (
        {
            "model": "google/gemini-3.1-flash-lite",
            "response_format": JSON_SCHEMA,
            "messages": [{"role": "user", "content": "hi"}],
        },
        {
            "model": "gemini-3.1-flash-lite",
            "contents": "hi",
            "config": {"response_mime_type": "application/json", "response_json_schema": SCHEMA},
        },
    ),
}  # fmt: skip
