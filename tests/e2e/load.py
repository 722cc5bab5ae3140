"""Load on a stack while something happens to it: clients that call and call again, and what each of them read."""

import contextlib
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from tests.e2e.books import Read, cost_pico
from tests.e2e.stacks import Stack, until

CLIENTS = 6
MODELS = ("anthropic/claude-haiku-4-5", "google/gemini-3-flash")


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that did not get its whole answer. `status` is None where the answer had begun as a stream."""

    id: str
    model: str
    status: int | None
    code: str | None


class Load:
    """The calls so far. A client that loses its connection to the edge ends the load, and the test."""

    def __init__(self, client: openai.OpenAI, directives: str) -> None:
        self._client, self._directives = client, directives
        self._numbers = itertools.count()
        self._enough = threading.Event()
        self.reads: list[Read] = []
        self.failures: list[Failure] = []

    def call_until_enough(self) -> None:
        while not self._enough.is_set():
            self._call(next(self._numbers))

    def wait_for(self, more: int) -> None:
        """Return when that many more answers were read."""
        enough = len(self.reads) + more
        until(lambda: self._enough.is_set() or len(self.reads) >= enough, f"{more} more answers are read")

    def end(self) -> None:
        self._enough.set()

    def _call(self, number: int) -> None:
        model, prompt = MODELS[number % 2], f"Question {number} {self._directives}"
        messages: list[Any] = [{"role": "user", "content": prompt}]
        name = ""
        try:
            if number % 3 == 0:
                answer = self._client.chat.completions.create(model=model, messages=messages)
                self.reads.append(Read(answer.id, answer.choices[0].message.content or "", cost_pico(answer.usage)))
                return
            chunks = []
            for chunk in self._client.chat.completions.create(model=model, messages=messages, stream=True):
                name = chunk.id
                chunks.append(chunk)
            self.reads.append(whole(chunks))
        except openai.APIStatusError as error:
            name = f"chatcmpl-{error.response.headers['x-request-id']}"
            self.failures.append(Failure(name, model, error.status_code, error.code))
        except openai.APIConnectionError:
            raise
        except openai.APIError as error:
            self.failures.append(Failure(name, model, None, error.code))


def whole(chunks: list[Any]) -> Read:
    """What a whole stream says."""
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return Read(chunks[0].id, text, cost_pico(chunks[-1].usage))


@contextlib.contextmanager
def running(stack: Stack, directives: str = "", http_client: httpx2.Client | None = None) -> Iterator[Load]:
    """Load for the length of the block; what went wrong in a client is raised at its end."""
    with (
        openai.OpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=0, http_client=http_client) as client,
        ThreadPoolExecutor(CLIENTS) as threads,
    ):
        load = Load(client, directives)
        clients = [threads.submit(load.call_until_enough) for _ in range(CLIENTS)]
        for one in clients:
            one.add_done_callback(lambda _: load.end())  # one that broke down ends the wait for it
        try:
            yield load
        finally:
            load.end()
        for one in clients:
            one.result()
