"""What a user of the official OpenAI SDK for Python does first: the base URL and the key changed, nothing else."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from shared.money import pico_usd
from tests.e2e.books import cost_pico
from tests.e2e.stacks import Stack, until

MODELS = ["anthropic/claude-haiku-4-5", "google/gemini-3-flash"]
HELLO: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello, 안녕!"}]


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", MODELS)
def test_a_completion_is_answered_and_its_receipt_is_what_was_read(
    client: openai.OpenAI, stack: Stack, model: str
) -> None:
    raw = client.chat.completions.with_raw_response.create(model=model, messages=HELLO, max_tokens=200)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == model
    request_id = raw.headers["x-request-id"]
    assert answer.id == f"chatcmpl-{request_id}"
    receipt = stack.settled(request_id)
    assert answer.usage is not None
    assert receipt["tokens"]["output"] == answer.usage.completion_tokens
    assert receipt["cost_usd"] == raw.headers["x-opentoken-cost"]
    assert receipt["outcome"] == "completed"
    assert int(receipt["debit"]["amount_pico_usd"]) == -int(receipt["cost_pico_usd"]) < 0


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_says_and_costs_the_same_as_a_whole_answer(client: openai.OpenAI, stack: Stack, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=HELLO, max_tokens=200)
    chunks = list(client.chat.completions.create(model=model, messages=HELLO, max_tokens=200, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    both = [stack.settled(answer.id) for answer in (whole, chunks[0])]
    assert both[0]["cost_pico_usd"] == both[1]["cost_pico_usd"]
    assert [one["stream"] for one in both] == [False, True]


def test_embeddings_come_as_floats_though_the_sdk_asks_for_base64(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="google/text-embedding-004", input=["one", "two"])
    assert [len(item.embedding) for item in answer.data] == [768, 768]
    assert [item.index for item in answer.data] == [0, 1]
    assert sum(value * value for value in answer.data[0].embedding) == pytest.approx(1, abs=1e-5)
    plain = client.embeddings.create(model="google/text-embedding-004", input=["one", "two"], encoding_format="float")
    assert plain.data[1].embedding == pytest.approx(answer.data[1].embedding, abs=1e-6)
    assert plain.usage == answer.usage


def test_fewer_dimensions_are_as_long_as_asked_and_of_length_one(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="google/text-embedding-004", input="one", dimensions=64)
    assert len(answer.data[0].embedding) == 64
    assert sum(value * value for value in answer.data[0].embedding) == pytest.approx(1, abs=1e-5)


def test_the_models_are_listed_and_each_can_be_retrieved(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert len(listed) == 10
    assert client.models.retrieve(listed[0].id) == listed[0]
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("openai/gpt-4o")
    assert error.value.code == "model_not_found"


def test_an_unknown_model_is_a_400_that_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="openai/gpt-4o", messages=HELLO)
    assert error.value.code == "model_not_found"
    assert error.value.body == {
        "message": 'model "openai/gpt-4o" not found',
        "type": "invalid_request_error",
        "code": "model_not_found",
        "param": "model",
    }


def test_a_wrong_key_is_an_authentication_error(stack: Stack) -> None:
    with (
        openai.OpenAI(base_url=stack.base_url, api_key="sk-optk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as error,
    ):
        client.models.list()
    assert error.value.code == "invalid_key"


def test_a_stream_that_breaks_raises_in_the_sdk_and_costs_nothing(client: openai.OpenAI, stack: Stack) -> None:
    broken: list[Any] = [{"role": "user", "content": "Tell me a long story [[midstream_error]]"}]
    stream = client.chat.completions.create(model=MODELS[0], messages=broken, stream=True)
    first = next(iter(stream))
    with pytest.raises(openai.APIError) as error:
        list(stream)
    assert error.value.code == "upstream_error"
    receipt = stack.settled(first.id)
    assert (receipt["outcome"], receipt["cost_usd"], receipt["debit"]) == ("upstream_interrupted", "0", None)


@pytest.mark.parametrize(
    ("directive", "status", "code"),
    [
        ("[[status=429 retry_after=3]]", 429, "upstream_error"),
        ("[[status=529]]", 503, "no_supplier"),
        ("[[status=500]]", 503, "no_supplier"),
        ("[[status=400]]", 400, "upstream_error"),
        ("[[key_invalid]]", 502, "upstream_auth_failed"),
    ],
)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_providers_refusal_keeps_its_meaning_and_costs_nothing(
    client: openai.OpenAI, stack: Stack, directive: str, status: int, code: str, model: str, stream: bool
) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": f"Hello {directive}"}], stream=stream
        )
    assert (error.value.status_code, error.value.code) == (status, code)
    if status == 429:
        assert error.value.response.headers["retry-after"] == "3"
    receipt = stack.settled(error.value.response.headers["x-request-id"])
    assert receipt["outcome"] == ("upstream_refused" if status in {400, 429} else "upstream_failed")
    assert receipt["cost_usd"] == "0"
    assert len(receipt["attempts"]) == (3 if code == "no_supplier" else 1)


def test_what_was_read_is_what_was_billed_to_the_pico_dollar(client: openai.OpenAI, stack: Stack) -> None:
    before, costs = stack.balance_pico(), []
    for number in range(12):
        model, prompt = MODELS[number % 2], f"Question {number} [[tokens={7 + number}]]"
        if number % 3 == 0:
            chunks = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": prompt}], stream=True
            )
            costs.append(cost_pico([chunk.usage for chunk in chunks][-1]))
        else:
            answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}])
            costs.append(cost_pico(answer.usage))
    vectors = client.embeddings.create(model="google/text-embedding-004", input="some text to embed")
    costs.append(cost_pico(vectors.usage))
    assert all(cost > 0 for cost in costs)
    until(lambda: stack.balance_pico() == before - sum(costs), "the balance is what was read")


def test_the_books_add_up_entry_by_entry(stack: Stack, client: openai.OpenAI) -> None:
    client.chat.completions.create(model=MODELS[0], messages=HELLO)
    entries = sorted(stack.entries(), key=lambda entry: entry["seq"])
    balance = 0
    for number, entry in enumerate(entries, start=1):
        balance += int(entry["amount_pico_usd"])
        assert entry["seq"] == number
        assert int(entry["balance_after_pico_usd"]) == balance
    assert entries[0]["amount_pico_usd"] == "10000000000000"


def test_the_caller_reads_its_own_receipt_credit_and_key(client: openai.OpenAI, stack: Stack) -> None:
    answer = client.chat.completions.create(model=MODELS[0], messages=HELLO)
    stack.settled(answer.id)
    receipt = client.get(f"/generations/{answer.id}", cast_to=object)
    assert isinstance(receipt, dict)
    assert receipt["id"] == answer.id
    credit = client.get("/credits", cast_to=object)
    assert isinstance(credit, dict)
    assert (credit["workspace_id"], credit["strict"]) == ("demo", False)
    balance, held, available = (pico_usd(str(credit[f"{name}_usd"])) for name in ("balance", "held", "available"))
    assert balance == held + available
    key = client.get("/key", cast_to=object)
    assert isinstance(key, dict)
    assert key["key_id"] == "EndToEndTest"
    with pytest.raises(openai.NotFoundError):
        client.get("/generations/chatcmpl-01a205e6-1df4-7743-bfc1-85fc5a049309", cast_to=object)
