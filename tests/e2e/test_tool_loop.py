"""Tools as users of the OpenAI SDK run them: call, answer, call again; and whatever the SDK dumps is taken back.

The simulator calls the functions that a directive names, and refuses a history on Gemini 3 whose steps lack the
signatures that they came with.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ParsedChatCompletion
from pydantic import BaseModel

from tests.e2e.stacks import Stack

MODELS = ["google/gemini-2.5-pro", "google/gemini-3-flash", "google/gemini-3.1-flash-lite", "google/gemini-3.1-pro"]
SIGNED = MODELS[1]


class GetWeather(BaseModel):
    """The weather in a city."""

    city: str
    days: int


class BookTrain(BaseModel):
    """A train to a city."""

    city: str


class Plan(BaseModel):
    """Where to, and for how long."""

    city: str
    days: int


TOOLS = [openai.pydantic_function_tool(kind) for kind in (GetWeather, BookTrain)]
BOTH = "[[call=GetWeather,BookTrain]]"

Client = openai.OpenAI
Ask = Callable[[Client, str, list[Any]], ChatCompletion | ParsedChatCompletion[Any]]


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with openai.OpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=0) as client:
        yield client


def created(client: Client, model: str, messages: list[Any]) -> ChatCompletion:
    return client.chat.completions.create(model=model, messages=messages, tools=TOOLS, reasoning_effort="low")


def streamed(client: Client, model: str, messages: list[Any]) -> ParsedChatCompletion[Any]:
    with client.chat.completions.stream(model=model, messages=messages, tools=TOOLS, reasoning_effort="low") as stream:
        return stream.get_final_completion()


def parsed(client: Client, model: str, messages: list[Any]) -> ParsedChatCompletion[Any]:
    return client.chat.completions.parse(model=model, messages=messages, tools=TOOLS, reasoning_effort="low")


WAYS = [created, streamed, parsed]


def results(message: Any) -> list[dict[str, Any]]:
    """One for each call, in the other order."""
    return [
        {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"seen": call.function.name})}
        for call in reversed(message.tool_calls)
    ]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("ask", WAYS)
def test_a_loop_of_three_steps_comes_to_its_answer(client: Client, ask: Ask, model: str) -> None:
    messages: list[Any] = []
    for prompt in (f"Weather and a train, please. {BOTH}", "Only the train. [[call=BookTrain]]", f"Again. {BOTH}"):
        messages.append({"role": "user", "content": prompt})
        choice = ask(client, model, messages).choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls
        named = [call.function.name for call in choice.message.tool_calls if call.type == "function"]
        assert named == prompt.partition("call=")[2].removesuffix("]]").split(",")
        assert len({call.id for call in choice.message.tool_calls}) == len(named)
        messages += [choice.message, *results(choice.message)]
    messages.append({"role": "user", "content": "Thank you."})
    answer = ask(client, model, messages).choices[0]
    assert answer.finish_reason == "stop"
    assert answer.message.content


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize(
    "dump",
    [
        lambda message: message,
        lambda message: message.model_dump(),
        lambda message: message.model_dump(mode="json"),
        lambda message: message.model_dump(exclude_none=True),
        lambda message: json.loads(message.model_dump_json()),
        lambda message: message.to_dict(),
    ],
    ids=["itself", "model_dump", "as JSON", "without None", "model_dump_json", "to_dict"],
)
def test_whatever_the_sdk_dumps_of_an_answer_is_taken_back(client: Client, ask: Ask, dump: Any) -> None:
    messages: list[Any] = [{"role": "user", "content": f"Weather and a train. {BOTH}"}]
    called = ask(client, SIGNED, messages).choices[0].message
    assert called.tool_calls
    messages += [dump(called), *results(called), {"role": "user", "content": "Thank you."}]
    said = ask(client, SIGNED, messages).choices[0].message
    assert said.content
    messages += [dump(said), {"role": "user", "content": "Once more?"}]
    assert ask(client, SIGNED, messages).choices[0].finish_reason == "stop"


@pytest.mark.parametrize("ask", WAYS)
def test_a_text_answer_with_thoughts_is_taken_back_by_either_provider(client: Client, ask: Ask) -> None:
    messages: list[Any] = [{"role": "user", "content": "Say hello."}]
    for model in (SIGNED, "anthropic/claude-sonnet-4-6", SIGNED):
        asked = without_tools(client, model, messages, stream=ask is streamed)
        messages += [asked.model_dump(), {"role": "user", "content": "And again."}]
        assert asked.content
        assert asked.model_extra
        assert asked.model_extra["reasoning"]


def without_tools(client: Client, model: str, messages: list[Any], *, stream: bool) -> Any:
    asked: dict[str, Any] = {"model": model, "messages": messages, "reasoning_effort": "low"}
    if not stream:
        return client.chat.completions.create(**asked).choices[0].message
    with client.chat.completions.stream(**asked) as events:
        return events.get_final_completion().choices[0].message


def test_a_signature_that_the_client_drops_is_missed_upstream(client: Client) -> None:
    messages: list[Any] = [{"role": "user", "content": f"Weather and a train. {BOTH}"}]
    called = created(client, SIGNED, messages).choices[0].message
    assert called.tool_calls
    signature = called.tool_calls[0].model_extra
    assert signature
    assert signature["extra_content"]["google"]["thought_signature"]
    assert not called.tool_calls[1].model_extra
    bare = called.model_dump()
    for call in bare["tool_calls"]:
        call.pop("extra_content", None)
    with pytest.raises(openai.BadRequestError) as error:
        created(client, SIGNED, [*messages, bare, *results(called)])
    assert "thought_signature" in error.value.message
    assert error.value.code == "upstream_error"


def test_a_signature_may_come_back_in_reasoning_details(client: Client) -> None:
    messages: list[Any] = [{"role": "user", "content": f"Weather and a train. {BOTH}"}]
    called = created(client, SIGNED, messages).choices[0].message
    assert called.tool_calls
    assert called.tool_calls[0].model_extra
    signature = called.tool_calls[0].model_extra["extra_content"]["google"]["thought_signature"]
    bare = called.model_dump()
    for call in bare["tool_calls"]:
        call.pop("extra_content", None)
    encrypted = {"type": "reasoning.encrypted", "data": signature, "id": called.tool_calls[0].id}
    bare["reasoning_details"] = [encrypted | {"format": "google-gemini-v1", "index": 0}]
    answer = created(client, SIGNED, [*messages, bare, *results(called), {"role": "user", "content": "Thank you."}])
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", MODELS)
def test_arguments_and_answers_are_parsed_into_the_callers_own_types(client: Client, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": f"Weather in Seoul. {BOTH}"}]
    called = parsed(client, model, messages).choices[0].message
    assert called.tool_calls
    assert [type(call.function.parsed_arguments) for call in called.tool_calls] == [GetWeather, BookTrain]
    asked: Any = {"role": "user", "content": "A plan, please."}
    answer = client.chat.completions.parse(model=model, messages=[asked], response_format=Plan)
    assert isinstance(answer.choices[0].message.parsed, Plan)


def test_a_parsed_answer_of_claude_is_taken_back(client: Client) -> None:
    messages: list[Any] = [{"role": "user", "content": "A plan, please."}]
    model = "anthropic/claude-sonnet-4-6"
    answer = client.chat.completions.parse(model=model, messages=messages, response_format=Plan).choices[0].message
    assert isinstance(answer.parsed, Plan)
    dumped = answer.model_dump(warnings=False)  # of the SDK's own `parsed`
    messages += [dumped, {"role": "user", "content": "Thank you."}]
    assert client.chat.completions.create(model=model, messages=messages).choices[0].message.content


def test_a_stream_hands_out_each_call_once_and_whole(client: Client) -> None:
    messages: list[Any] = [{"role": "user", "content": f"Weather and a train. {BOTH}"}]
    with client.chat.completions.stream(model=SIGNED, messages=messages, tools=TOOLS) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert [(event.index, event.name) for event in done] == [(0, "GetWeather"), (1, "BookTrain")]
    assert [type(event.parsed_arguments) for event in done] == [GetWeather, BookTrain]


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "BookTrain"}}], ids=["required", "named"]
)
def test_a_tool_choice_is_obeyed(client: Client, choice: Any) -> None:
    messages: list[Any] = [{"role": "user", "content": "Hello."}]
    answer = client.chat.completions.create(model=SIGNED, messages=messages, tools=TOOLS, tool_choice=choice)
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == ("GetWeather" if choice == "required" else "BookTrain")


def test_no_tool_is_called_where_none_may_be(client: Client) -> None:
    messages: list[Any] = [{"role": "user", "content": "The weather and a train, please."}]
    answer = client.chat.completions.create(model=SIGNED, messages=messages, tools=TOOLS, tool_choice="none")
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"
