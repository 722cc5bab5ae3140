"""Many answers at once: none is mixed up with another, none is missing, and each is on the books."""

import asyncio
from typing import Any

import openai

from tests.e2e import books
from tests.e2e.books import Read, cost_pico
from tests.e2e.load import MODELS, whole
from tests.e2e.stacks import Stack

STREAMS = 200
PROMPTS = [[{"role": "user", "content": f"Tell me about number {n} [[tokens={40 + n}]]"}] for n in range(STREAMS // 4)]
KINDS: list[tuple[str, Any]] = [(model, prompt) for model in MODELS for prompt in PROMPTS]


async def test_200_streams_at_once_each_say_what_they_should_and_are_billed(separate_stack: Stack) -> None:
    async with openai.AsyncOpenAI(
        base_url=separate_stack.base_url, api_key=separate_stack.key, max_retries=0
    ) as client:
        said = {(model, str(prompt)): await answered(client, model, prompt) for model, prompt in KINDS}
        all_open = asyncio.Barrier(STREAMS)
        kinds = KINDS * (STREAMS // len(KINDS))
        reads = await asyncio.gather(*(streamed(client, model, prompt, all_open) for model, prompt in kinds))
    for (model, prompt), read in zip(kinds, reads, strict=True):
        alike = said[model, str(prompt)]
        assert (read.text, read.cost_pico) == (alike.text, alike.cost_pico)
    assert len({read.text for read in reads}) == len(PROMPTS)
    books.check(separate_stack, [*said.values(), *reads])


async def answered(client: openai.AsyncOpenAI, model: str, prompt: Any) -> Read:
    """The whole answer, which is the same every time."""
    answer = await client.chat.completions.create(model=model, messages=prompt)
    return Read(answer.id, answer.choices[0].message.content or "", cost_pico(answer.usage))


async def streamed(client: openai.AsyncOpenAI, model: str, prompt: Any, all_open: asyncio.Barrier) -> Read:
    """The same answer as a stream, read on only when all streams have begun."""
    stream = await client.chat.completions.create(model=model, messages=prompt, stream=True)
    await all_open.wait()
    return whole([chunk async for chunk in stream])
