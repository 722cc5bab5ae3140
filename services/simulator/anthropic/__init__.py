"""Anthropic's half of the simulator: `POST /v1/messages` at version 2023-06-01."""

from dataclasses import replace

from services.simulator import schema
from services.simulator.anthropic import answer, errors
from services.simulator.anthropic.checks import CHECKS
from services.simulator.anthropic.errors import SPEND_LIMIT, Refusal
from services.simulator.anthropic.models import MODELS, Claude
from services.simulator.anthropic.request import MessagesRequest, parse
from services.simulator.directives import DirectiveError, Directives, without
from services.simulator.directives import parse as parse_directives
from services.simulator.model import Generation, compact, generate, reply, thought
from services.simulator.script import Call, Frame, Script, streamed, whole
from shared.money import Tokens

VERSION = "2023-06-01"
EFFORTS = {"low": 1, "medium": 2, "high": 3, "xhigh": 4, "max": 5}


class AnthropicDirectives(Directives):
    """And what only Anthropic does."""

    spend_limit: bool = False


def respond(call: Call) -> Script:
    """The answer to one request, or its refusal."""
    try:
        _check_headers(call)
        request = parse(call.body)
    except Refusal as refusal:
        return refused(call, refusal)
    try:
        return _answer(call, request)
    except Refusal as refusal:
        return refused(call, refusal, request.model)


def refused(call: Call, refusal: Refusal, model: str | None = None) -> Script:
    """The script of a refusal."""
    request_id = f"req_{call.id}"
    headers = {"content-type": "application/json", "request-id": request_id} | errors.headers(refusal)
    body = replace(whole(Frame(errors.body(refusal, request_id)), Directives()), outcome="refused")
    return Script(
        status=refusal.status,
        headers=headers,
        body=body,
        seed=call.seed,
        upstream_request_id=request_id,
        model=model,
    )


def _check_headers(call: Call) -> None:
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    key = call.headers.get("x-api-key") or (token if scheme.lower() == "bearer" else "")  # newer SDKs send a Bearer
    if not key:
        raise Refusal(401, "x-api-key header is required")
    if key == "invalid":
        raise Refusal(401)
    version = call.headers.get("anthropic-version")
    if version is None:
        raise Refusal(400, "anthropic-version: header is required")
    if version != VERSION:
        raise Refusal(400, f"anthropic-version: {version!r} is not simulated, send {VERSION}")


def _answer(call: Call, request: MessagesRequest) -> Script:
    model = MODELS.get(request.model)
    if model is None:
        raise Refusal(404, f"model: {request.model}")
    for check in CHECKS:
        if complaint := check(request, model):
            raise Refusal(400, complaint)
    directives = _directives(call, request)
    said = _reply(call, request, model, directives)
    request_id = f"req_{call.id}"
    headers = {"content-type": "application/json", "request-id": request_id}
    if request.stream:
        headers |= {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        body = streamed(answer.stream(said, errors.body(Refusal(529), request_id)), directives)
    else:
        body = whole(Frame(answer.message(said), said.tokens.output), directives)
    return Script(
        status=200,
        headers=headers,
        body=body,
        seed=call.seed,
        upstream_request_id=request_id,
        response_id=said.id,
        model=model.id,
        tokens=said.tokens,
        reported=said.tells_usage,
        directives=directives,
    )


def _reply(call: Call, request: MessagesRequest, model: Claude, directives: Directives) -> answer.Reply:
    generation = _generation(request, directives)
    display = request.thinking.display if request.thinking else None
    return answer.Reply(
        id=f"msg_{call.id}",
        model=model.id,
        generation=generation,
        tokens=_tokens(request, model, generation, directives),
        tells_usage=not directives.no_usage,
        reason=directives.finish,
        thoughts=request.thinks,
        shows_thoughts=display == "summarized" or (display is None and model.shows_thoughts),
        seed=call.seed,
    )


def _directives(call: Call, request: MessagesRequest) -> AnthropicDirectives:
    """The prompt's directives; those that mean a refusal are raised."""
    try:
        directives = parse_directives(AnthropicDirectives, request.prompt)
    except DirectiveError as error:
        raise Refusal(400, str(error)) from None
    if directives.fail_first:
        directives = directives.on_attempt(call.attempt())
    if directives.key_invalid:
        raise Refusal(401)
    if directives.spend_limit:
        raise Refusal(429, "You have reached your specified API usage limits.", code=SPEND_LIMIT)
    if directives.status is not None:
        raise Refusal(directives.status, directives.message, retry_after_s=directives.retry_after)
    if directives.midstream_error is not None and not request.stream:
        raise Refusal(529)  # a whole answer has no middle
    return directives


def _generation(request: MessagesRequest, directives: Directives) -> Generation:
    prompt = without(request.prompt)
    text = reply(prompt)
    if request.output_config.format is not None:
        text = compact(schema.sample(request.output_config.format.output_schema, prompt[:40]))
    if directives.finish == "refusal" and directives.tokens is None:
        text = ""  # a refusal has no text, unless some was asked for
    weight = EFFORTS[request.output_config.effort or "high"] if request.thinks else 0
    return generate(
        text,
        thought(weight),
        max_tokens=request.max_tokens,
        stops=request.stop_sequences,
        directives=directives,
    )


def _tokens(request: MessagesRequest, model: Claude, generation: Generation, directives: Directives) -> Tokens:
    """The true counts. A marked prefix is written on every request, since nothing is remembered between them."""
    total = marked = marked_1h = 0
    for block in request.blocks:
        total += block.tokens
        if block.cache_control is not None:
            marked = total
            marked_1h = total if block.cache_control.ttl == "1h" else marked_1h
    if marked < model.cache_minimum:
        marked = marked_1h = 0
    return Tokens(
        input=total - marked + request.schema_tokens,
        cache_read=directives.cached,
        cache_write=marked - marked_1h,
        cache_write_1h=marked_1h,
        output=generation.tokens,
        reasoning=generation.thought_tokens,
    )
