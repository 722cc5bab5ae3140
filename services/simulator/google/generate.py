"""`:generateContent` and `:streamGenerateContent`: a request is checked, its cache opened, and its answer written."""

from services.simulator import schema
from services.simulator.directives import without
from services.simulator.google import answer, errors
from services.simulator.google.caches import Cache, Caches
from services.simulator.google.checks import CHECKS
from services.simulator.google.directives import GoogleDirectives, in_force
from services.simulator.google.errors import Refusal
from services.simulator.google.functions import calls
from services.simulator.google.models import CHAT_MODELS, LEVELS, MAX_OUTPUT_TOKENS
from services.simulator.google.replies import JSON, whole_or_refused
from services.simulator.google.request import GenerateRequest, parse, tokens_by_modality
from services.simulator.google.tenants import Tenant, not_found
from services.simulator.model import Generation, compact, generate, reply, thought
from services.simulator.script import Body, Call, Frame, Script, streamed
from shared.money import Tokens

EVENTS = {"content-type": "text/event-stream"}
ANY_JSON = {"type": "object", "properties": {"reply": {"type": "string"}}}  # where JSON is wanted without a schema


def respond(call: Call, tenant: Tenant, caches: Caches) -> Script:
    """The answer to one request, streamed or whole by its method. Raises Refusal."""
    streams = call.path["method"] == "streamGenerateContent"
    if streams and call.query.get("alt") != "sse":
        raise Refusal(400, "only alt=sse is simulated: add it to the query of streamGenerateContent")
    model = CHAT_MODELS.get(call.path["model"])
    if model is None:
        raise not_found(call, tenant)
    request = parse(GenerateRequest, call.body)
    for check in CHECKS:
        if complaint := check(request, model):
            raise Refusal(400, complaint)
    cache = caches.opened(tenant, request.cached_content, model) if request.cached_content else None
    directives = in_force(call, request.prompt)
    config = request.generation_config
    if directives.no_penalties and (config.presence_penalty or config.frequency_penalty):
        raise Refusal(400, "Penalty is not enabled for this model")
    said = _reply(call, tenant, request, cache, directives)
    return Script(
        status=200,
        headers=EVENTS if streams else JSON,
        body=_body(said, directives, streams=streams),
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
        return Body([Frame(b"data: " + data + b"\r\n\r\n")]) if streams else whole_or_refused(Frame(data), directives)
    if streams:
        return streamed(answer.stream(said, errors.body(Refusal(503))), directives)
    return whole_or_refused(Frame(answer.response(said), said.tokens.output), directives)


def _reply(
    call: Call, tenant: Tenant, request: GenerateRequest, cache: Cache | None, directives: GoogleDirectives
) -> answer.Reply:
    model, prompt = CHAT_MODELS[call.path["model"]], without(request.prompt)
    whole = request.model_copy(update=cache.prefix) if cache else request
    made = [] if directives.blocked else calls(whole, model, directives.call, prompt, call.seed)
    generation = _generation(request, directives, prompt, called=bool(made))
    modalities = tokens_by_modality(request)
    tokens = Tokens(
        input=sum(modalities.values()),
        cache_read=directives.cached + (cache.tokens if cache else 0),
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
        traffic=tenant.traffic,
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
