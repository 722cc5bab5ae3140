"""Directives: `[[key=value flag ...]]` in the last user message says how that request is to be answered.

They stand in the prompt because nothing but the body passes a gateway. Each provider adds the few that only its
wire can express; an unknown one is refused, so that a misspelt test cannot pass.
"""

import re
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_DELAY_MS = 600_000  # ten minutes: longer than any deadline that a test would wait for
MAX_TOKENS = 200_000  # above every model's output, and still a text of less than a megabyte
MAX_CHUNKS = 10_000  # one write each: a stream of this many is already a load test
MAX_CACHED = 1_000_000  # the largest context of any model
AFTER_CHUNKS = "2"  # where a bare `midstream_error`, `truncate` or `eof` strikes: something was said, not all

_BARE = {"midstream_error": AFTER_CHUNKS, "truncate": AFTER_CHUNKS, "eof": AFTER_CHUNKS}
_DIRECTIVE = re.compile(r"\[\[([^\[\]]*)\]\]")
_PAIR = re.compile(r'([^\s=]+)(?:=("[^"]*"|\S*))?')

Delay = Annotated[int, Field(ge=0, le=MAX_DELAY_MS)]
Place = Annotated[int, Field(ge=0, le=MAX_CHUNKS)]


class DirectiveError(ValueError):
    """A directive that is unknown, or whose value is wrong; the message says what to write."""


class Directives(BaseModel):
    """What a prompt asks of any provider. Faults strike always, or only on the first `fail_first` attempts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Annotated[int, Field(ge=400, le=599)] | None = None
    message: str | None = None
    retry_after: Annotated[float, Field(ge=0, le=86_400)] | None = None
    key_invalid: bool = False
    mute: bool = False
    midstream_error: Place | None = None
    truncate: Place | None = None
    eof: Place | None = None
    fail_first: Annotated[int, Field(ge=0)] = 0
    delay_ms: Delay = 0
    chunk_delay_ms: Delay = 0
    tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    chunks: Annotated[int, Field(ge=1, le=MAX_CHUNKS)] | None = None
    finish: str | None = None
    cached: Annotated[int, Field(ge=0, le=MAX_CACHED)] = 0
    no_usage: bool = False

    @property
    def _faults(self) -> dict[str, bool | None]:
        """Each fault that was asked for, with the value that means its absence."""
        none = {"status": None, "midstream_error": None, "truncate": None, "eof": None}
        absent = none | dict.fromkeys(("key_invalid", "mute", "spend_limit", "daily_quota"), False)
        return {name: absent[name] for name in self.model_fields_set & absent.keys()}

    def on_attempt(self, attempt: int) -> Self:
        """What holds on this attempt, counted from 1: past `fail_first` no fault; until then a 500 if none is named."""
        if attempt > self.fail_first:
            return self.model_copy(update=self._faults)
        return self if self._faults else self.model_copy(update={"status": 500})


D = TypeVar("D", bound=Directives)


def parse(kind: type[D], text: str) -> D:
    """The directives that stand in `text`. Raises DirectiveError."""
    pairs = {
        name: value.strip('"') or _BARE.get(name, "true")
        for inside in _DIRECTIVE.findall(text)
        for name, value in _PAIR.findall(inside)
    }
    try:
        return kind.model_validate(pairs)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = problem["loc"][0]
        if problem["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            raise DirectiveError(f"unknown directive {name!r}: this provider's are {known}") from None
        raise DirectiveError(f"directive {name}: {problem['msg']}") from None


def without(text: str) -> str:
    """The text with its directives taken out."""
    return _DIRECTIVE.sub("", text).strip()
