"""The policy of what is billed, row by row: each outcome is produced through the simulator and found on the books."""

import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.stacks import Stack

CLAUDE, GEMINI = "anthropic/claude-sonnet-4-6", "google/gemini-3-flash"
BOTH = pytest.mark.parametrize("model", [CLAUDE, GEMINI])


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, model: str, prompt: str, **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}], **more)


def priced(receipt: dict[str, Any]) -> int:
    rates = receipt["rates_pico_usd_per_token"]
    return sum(count * rates[name] for name, count in receipt["tokens"].items() if name in rates)


def is_billed(receipt: dict[str, Any]) -> bool:
    """Whether the record's cost is its tokens × its rates, and the debit is that."""
    cost = int(receipt["cost_pico_usd"])
    assert (receipt["debit"] is None) == (cost == 0)
    assert receipt["debit"] is None or int(receipt["debit"]["amount_pico_usd"]) == -cost
    assert cost in {0, priced(receipt)}
    return cost > 0


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_without_counts_is_billed_by_an_estimate_that_says_so(
    client: openai.OpenAI, stack: Stack, model: str, stream: bool
) -> None:
    prompt = "How long is this? [[no_usage]]"
    answer = ask(client, model, prompt, stream=stream)
    chunks = list(answer) if stream else [answer]
    text = "".join((chunk.choices[0].delta.content or "") for chunk in chunks if chunk.choices) if stream else None
    text = answer.choices[0].message.content if text is None else text
    receipt = stack.settled(chunks[0].id)
    assert (receipt["outcome"], receipt["usage_source"]) == ("completed", "estimated")
    assert receipt["tokens"]["input"] == math.ceil(len(prompt.encode()) / 4)
    assert receipt["tokens"]["output"] == math.ceil(len(text.encode()) / 4)
    assert is_billed(receipt)
    assert chunks[-1].usage.completion_tokens == receipt["tokens"]["output"]


@pytest.mark.parametrize(("model", "native"), [(CLAUDE, "refusal"), (GEMINI, "SAFETY")])
def test_a_filtered_answer_is_a_completed_one(client: openai.OpenAI, stack: Stack, model: str, native: str) -> None:
    answer = ask(client, model, f"Hello [[finish={native}]]")
    assert answer.choices[0].finish_reason == "content_filter"
    receipt = stack.settled(answer.id)
    assert (receipt["outcome"], receipt["native_finish_reason"]) == ("completed", native)
    assert is_billed(receipt)


@BOTH
def test_an_answer_cut_by_max_tokens_is_a_completed_one(client: openai.OpenAI, stack: Stack, model: str) -> None:
    answer = ask(client, model, "Say a lot [[tokens=500]]", max_tokens=80)
    assert answer.choices[0].finish_reason == "length"
    receipt = stack.settled(answer.id)
    assert receipt["outcome"] == "completed"
    assert is_billed(receipt)


def test_a_client_that_leaves_pays_anthropic_for_what_had_come(client: openai.OpenAI, stack: Stack) -> None:
    receipt = stack.settled(left_after_three(client, CLAUDE))
    assert (receipt["outcome"], receipt["usage_source"]) == ("client_disconnected", "estimated")
    assert 0 < receipt["tokens"]["output"] < 200
    assert receipt["duration_ms"] < 20_000, "the call was cut, not read to its end"
    assert is_billed(receipt)


def test_a_client_that_leaves_pays_google_for_all_that_was_made(client: openai.OpenAI, stack: Stack) -> None:
    receipt = stack.settled(left_after_three(client, GEMINI, chunk_delay_ms=20))
    assert (receipt["outcome"], receipt["usage_source"]) == ("client_disconnected", "reported")
    assert receipt["tokens"]["output"] - receipt["tokens"]["reasoning"] == 200
    assert is_billed(receipt)


def left_after_three(client: openai.OpenAI, model: str, chunk_delay_ms: int = 600) -> str:
    """The id of a stream whose client closed the connection after three of its 50 chunks."""
    prompt = f"Say a lot [[tokens=200 chunks=50 chunk_delay_ms={chunk_delay_ms}]]"
    with ask(client, model, prompt, stream=True) as stream:
        chunks = [next(stream) for _ in range(3)]
    return chunks[0].id


@BOTH
@pytest.mark.parametrize("directive", ["midstream_error", "truncate", "eof"])
def test_an_answer_that_breaks_is_on_record_and_free(
    client: openai.OpenAI, stack: Stack, model: str, directive: str
) -> None:
    stream = ask(client, model, f"Say a lot [[tokens=200 chunks=20 {directive}]]", stream=True)
    first = next(iter(stream))
    with pytest.raises(openai.APIError) as error:
        list(stream)
    assert error.value.code == "upstream_error"
    receipt = stack.settled(first.id)
    assert receipt["outcome"] == "upstream_interrupted"
    assert receipt["tokens"]["input"] > 0, "the counts stay, for reconciliation"
    assert not is_billed(receipt)


@BOTH
@pytest.mark.parametrize(
    ("directive", "outcome"), [("status=400", "upstream_refused"), ("status=503", "upstream_failed")]
)
def test_a_request_that_got_no_answer_is_on_record_and_free(
    client: openai.OpenAI, stack: Stack, model: str, directive: str, outcome: str
) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        ask(client, model, f"Hello [[{directive}]]")
    receipt = stack.settled(error.value.response.headers["x-request-id"])
    assert receipt["outcome"] == outcome
    assert receipt["attempts"]
    assert not is_billed(receipt)


@BOTH
def test_a_retry_that_succeeds_is_billed_once_with_every_attempt_on_record(
    client: openai.OpenAI, stack: Stack, model: str
) -> None:
    answer = ask(client, model, f"Hello {model} {stack.base_url} [[fail_first=2 status=503]]")
    receipt = stack.settled(answer.id)
    assert [attempt["status"] for attempt in receipt["attempts"]] == [503, 503, 200]
    assert receipt["outcome"] == "completed"
    assert is_billed(receipt)
