"""Answers that are read whole before they leave: the body goes out once its usage is durable."""

from time import monotonic

from aiohttp import web

from services.workers import replies
from services.workers.exchange import Exchange
from services.workers.provider import Answer, Supplier, Usage, Vectors
from services.workers.settle import estimated, trusted
from services.workers.upstream import Calls, Upstream, understanding
from shared.errors import ApiError, EmbeddingsUnsupported
from shared.money import Tokens
from shared.openai import ChatRequest, EmbeddingsRequest


async def chat(upstream: Upstream, exchange: Exchange, request: ChatRequest) -> web.Response:
    """A `chat.completion`. Raises ApiError."""
    asked, provider, calls = exchange.asked, upstream.provider, Calls(upstream.session, exchange.trail)

    async def attempt(supplier: Supplier) -> Answer:
        call = upstream.call(request, asked, supplier)
        exchange.trail.service_tier = call.service_tier
        sent = await calls.planned(provider.plan(call), supplier)
        reply = await calls.whole(sent, supplier)
        if reply.status != 200:
            raise upstream.failure(supplier, sent, reply)
        with understanding():
            return provider.answer(request, sent, reply)

    try:
        async with exchange.bounded():
            answer = await upstream.first_to_begin(request, attempt)
    except (ApiError, TimeoutError) as error:
        raise await exchange.failed(error, estimated(request, 0, Usage(Tokens()))) from None
    usage = trusted(request, len(str(answer.message.get("content") or "").encode()), answer.usage)
    exchange.trail.first_byte, exchange.trail.upstream_id = monotonic(), answer.upstream_id
    cost = await exchange.finished(usage, answer.finish)
    created = int(asked.started_at.timestamp())
    head = replies.Head(asked.request_id, created, asked.model.id, exchange.trail.service_tier)
    body = replies.completion(head, answer, usage, cost)
    return _settled(body, cost, usage.tokens, exchange)


async def embeddings(upstream: Upstream, exchange: Exchange, request: EmbeddingsRequest) -> web.Response:
    """An OpenAI list of embeddings. Raises ApiError."""
    asked, calls, embed = exchange.asked, Calls(upstream.session, exchange.trail), upstream.provider.embed
    if embed is None:
        raise EmbeddingsUnsupported(f'model "{asked.model.id}" does not support embeddings', param="model")

    async def attempt(supplier: Supplier) -> Vectors:
        return await calls.planned(embed(upstream.call(request, asked, supplier)), supplier)

    try:
        async with exchange.bounded():
            vectors = await upstream.first_to_begin(request, attempt)
    except (ApiError, TimeoutError) as error:
        raise await exchange.failed(error, Usage(Tokens())) from None
    exchange.trail.first_byte, exchange.trail.upstream_id = monotonic(), vectors.upstream_id
    cost = await exchange.finished(vectors.usage, None)
    as_base64 = request.encoding_format == "base64"
    body = replies.embeddings(asked.model.id, vectors, cost, as_base64=as_base64)
    return _settled(body, cost, vectors.usage.tokens, exchange)


def _settled(body: bytes, cost_pico: int, tokens: Tokens, exchange: Exchange) -> web.Response:
    headers = {
        "x-opentoken-settled": str(cost_pico),
        "x-opentoken-tokens": str(tokens.total),
        "x-opentoken-upstream-ms": f"{exchange.trail.upstream_s * 1000:.2f}",
    }
    return web.Response(body=body, headers=headers, content_type="application/json")
