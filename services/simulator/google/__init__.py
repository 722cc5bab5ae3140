"""Google's half of the simulator: the Gemini API's models, at version v1beta."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from services.simulator import schema
from services.simulator.directives import Directives, without
from services.simulator.google import answer, embeddings, errors
from services.simulator.google.checks import CHECKS
from services.simulator.google.directives import GoogleDirectives, in_force, parsed
from services.simulator.google.errors import Refusal
from services.simulator.google.functions import calls
from services.simulator.google.models import CHAT_MODELS, EMBEDDING_MODELS, LEVELS, MAX_OUTPUT_TOKENS, Gemini
from services.simulator.google.request import (
    BatchEmbedRequest,
    CountRequest,
    GenerateRequest,
    parse,
    tokens_by_modality,
)
from services.simulator.model import Generation, compact, count, generate, reply, thought
from services.simulator.script import Body, Call, Frame, Script, streamed, whole
from shared.money import Tokens

JSON = {"content-type": "application/json; charset=UTF-8"}
EVENTS = {"content-type": "text/event-stream"}
ANY_JSON = {"type": "object", "properties": {"reply": {"type": "string"}}}  # where JSON is wanted without a schema


def respond(call: Call) -> Script:
    """The answer to one request, or its refusal."""
    try:
        _check_key(call)
        method = METHODS.get(call.path["method"])
        if method is None:
            raise Refusal(404, f"method {call.path['method']!r} is not simulated")
        return method(call)
    except Refusal as refusal:
        return refused(call, refusal)


def refused(call: Call, refusal: Refusal) -> Script:
    """The script of a refusal."""
    body = replace(whole(Frame(errors.body(refusal)), Directives()), outcome="refused")
    return Script(
        status=refusal.status,
        headers=JSON,
        body=body,
        seed=call.seed,
        upstream_request_id=call.id,
        model=call.path["model"],
    )


def _check_key(call: Call) -> None:
    key = call.headers.get("x-goog-api-key")
    if not key:
        raise Refusal(403, "Method doesn't allow unregistered callers. Please use API Key to call this API.")
    if key == "invalid":
        raise errors.key_invalid()


def _generate(call: Call) -> Script:
    return _answer(call, streams=False)


def _stream(call: Call) -> Script:
    if call.query.get("alt") != "sse":
        raise Refusal(400, "only alt=sse is simulated: add it to the query of streamGenerateContent")
    return _answer(call, streams=True)


def _answer(call: Call, *, streams: bool) -> Script:
    model = CHAT_MODELS.get(call.path["model"])
    if model is None:
        raise _not_found(call)
    request = parse(GenerateRequest, call.body)
    for check in CHECKS:
        if complaint := check(request, model):
            raise Refusal(400, complaint)
    if request.cached_content is not None:
        raise Refusal(403, "CachedContent not found (or permission denied)")
    directives = in_force(call, request.prompt)
    config = request.generation_config
    if directives.no_penalties and (config.presence_penalty or config.frequency_penalty):
        raise Refusal(400, "Penalty is not enabled for this model")
    said = _reply(call, request, model, directives)
    body = _body(said, directives, streams=streams)
    return Script(
        status=200,
        headers=EVENTS if streams else JSON,
        body=body,
        seed=call.seed,
        upstream_request_id=said.id,
        response_id=said.id,
        model=model.id,
        tokens=said.tokens,
        reported=said.tells_usage,
        directives=directives,
    )


def _body(said: answer.Reply, directives: GoogleDirectives, *, streams: bool) -> Body:
    if directives.blocked:
        data = answer.blocked(said, directives.finish or "PROHIBITED_CONTENT")
        return Body([Frame(b"data: " + data + b"\r\n\r\n")]) if streams else _whole(Frame(data), directives)
    if streams:
        return streamed(answer.stream(said, errors.body(Refusal(503))), directives)
    return _whole(Frame(answer.response(said), said.tokens.output), directives)


def _whole(frame: Frame, directives: Directives) -> Body:
    if directives.midstream_error is not None:
        raise Refusal(503)  # a whole answer has no middle
    return whole(frame, directives)


def _reply(call: Call, request: GenerateRequest, model: Gemini, directives: GoogleDirectives) -> answer.Reply:
    prompt = without(request.prompt)
    made = [] if directives.blocked else calls(request, model, directives.call, prompt, call.seed)
    generation = _generation(request, directives, prompt, called=bool(made))
    modalities = tokens_by_modality(request)
    tokens = Tokens(
        input=sum(modalities.values()),
        cache_read=directives.cached,
        output=generation.tokens + sum(map(answer.call_tokens, made)),
        reasoning=generation.thought_tokens,
    )
    return answer.Reply(
        id=call.id,
        model=model.id,
        generation=generation,
        calls=made,
        tokens=tokens,
        tells_usage=not directives.no_usage,
        modalities=modalities,
        reason=directives.finish,
        shows_thoughts=request.generation_config.thinking_config.include_thoughts,
        seed=call.seed,
    )


def _generation(request: GenerateRequest, directives: GoogleDirectives, prompt: str, *, called: bool) -> Generation:
    if directives.blocked:
        return Generation("", (), "done")
    config = request.generation_config
    thoughts = thought(LEVELS.index(config.thinking_config.thinking_level or "HIGH"))
    if called:
        return Generation(thoughts, (), "done")
    text = reply(prompt)
    if config.response_mime_type == "application/json":
        text = compact(schema.sample(config.response_json_schema or config.response_schema or ANY_JSON, prompt[:40]))
    if directives.finish in answer.SILENT and directives.tokens is None:
        text = ""
    return generate(
        text,
        thoughts,
        max_tokens=config.max_output_tokens or MAX_OUTPUT_TOKENS,
        stops=config.stop_sequences,
        directives=directives,
    )


def _count(call: Call) -> Script:
    model = _known(call, EMBEDDING_MODELS | CHAT_MODELS.keys())
    request = parse(CountRequest, call.body)
    if parsed(request.contents[-1].words).no_usage:
        raise Refusal(503)  # counts that cannot be had
    body = whole(Frame(embeddings.counted(request)), Directives())
    return Script(status=200, headers=JSON, body=body, seed=call.seed, upstream_request_id=call.id, model=model)


def _embed(call: Call) -> Script:
    model = _known(call, EMBEDDING_MODELS)
    request = parse(BatchEmbedRequest, call.body)
    directives = in_force(call, request.requests[-1].content.words)
    body = _whole(Frame(embeddings.embed(request, model)), directives)
    tokens = Tokens(input=sum(count(one.content.words) for one in request.requests))
    return Script(
        status=200,
        headers=JSON,
        body=body,
        seed=call.seed,
        upstream_request_id=call.id,
        model=model,
        tokens=tokens,
        directives=directives,
    )


def _known(call: Call, models: AbstractSet[str]) -> str:
    """The model of the path. Raises Refusal."""
    if call.path["model"] not in models:
        raise _not_found(call)
    return call.path["model"]


def _not_found(call: Call) -> Refusal:
    model, method = call.path["model"], call.path["method"]
    return Refusal(404, f"models/{model} is not found for API version v1beta, or is not supported for {method}.")


METHODS: Mapping[str, Callable[[Call], Script]] = {
    "generateContent": _generate,
    "streamGenerateContent": _stream,
    "countTokens": _count,
    "batchEmbedContents": _embed,
}
