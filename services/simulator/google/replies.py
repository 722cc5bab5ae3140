"""Answers that are one JSON object, refusals among them, as scripts."""

from dataclasses import replace
from typing import Any

import orjson

from services.simulator.directives import Directives
from services.simulator.google import errors
from services.simulator.google.errors import Refusal
from services.simulator.script import Body, Call, Frame, Script, whole
from shared.money import Tokens

JSON = {"content-type": "application/json; charset=UTF-8"}
AS_IS = Directives()


def told(call: Call, data: Any, *, tokens: Tokens | None = None, directives: Directives = AS_IS) -> Script:
    """The script of an answer without a stream; the directives may break it. Raises Refusal."""
    return Script(
        status=200,
        headers=JSON,
        body=whole_or_refused(Frame(orjson.dumps(data)), directives),
        seed=call.seed,
        upstream_request_id=call.id,
        model=call.path.get("model"),
        tokens=tokens,
        directives=directives,
    )


def refused(call: Call, refusal: Refusal) -> Script:
    """The script of a refusal."""
    return _refused(call, refusal.status, errors.body(refusal))


def grant_refused(call: Call, status: int, code: str, words: str) -> Script:
    """The script of a refusal of the token endpoint, which has a form of its own (RFC 6749, 5.2)."""
    return _refused(call, status, orjson.dumps({"error": code, "error_description": words}))


def _refused(call: Call, status: int, data: bytes) -> Script:
    return Script(
        status=status,
        headers=JSON,
        body=replace(whole(Frame(data), AS_IS), outcome="refused"),
        seed=call.seed,
        upstream_request_id=call.id,
        model=call.path.get("model"),
    )


def whole_or_refused(frame: Frame, directives: Directives) -> Body:
    """A whole body. Raises Refusal for an error in its middle, which it does not have."""
    if directives.midstream_error is not None:
        raise Refusal(503)
    return whole(frame, directives)
