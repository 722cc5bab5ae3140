"""Every golden exchange through the pure functions of its provider's folder: no socket, no loop."""

import base64
import json
import struct
from typing import Any
from urllib.parse import urlsplit

import pytest

from services.edge import rules
from services.workers import replies
from services.workers.provider import (
    Usage,
    Vectors,
)
from shared.errors import InvalidRequest
from shared.money import cost_pico
from tests.golden.exchanges import Exchange, comparable, exchanges, said
from tests.golden.playing import PROVIDERS, Played, head_of, play, streamed

FOUND = [one for provider in PROVIDERS for one in exchanges(provider) if one.upstream]
ALL = [pytest.param(one, id=one.name) for one in FOUND]
STREAMED = [pytest.param(one, id=one.name) for one in FOUND if one.streamed]
REFUSED = [pytest.param(one, id=one.name) for one in FOUND if one.answer["status"] != 200]
REJECTED = [pytest.param(one, id=one.name) for name in PROVIDERS for one in exchanges(name) if not one.upstream]
WHOLE = [pytest.param(one, id=one.name) for one in FOUND if not one.streamed and one.answer["status"] == 200]


@pytest.mark.parametrize("exchange", ALL)
def test_the_upstream_calls_are_the_golden_ones(exchange: Exchange) -> None:
    calls = 0
    for call, expected in Played(exchange).calls():
        calls += 1
        assert call.method == expected["method"]
        assert call.url == expected["url"]
        assert dict(call.headers) == expected["headers"]
        assert without_hash(json.loads(call.body)) == without_hash(expected["request"])
    assert calls == len(exchange.upstream)


def without_hash(body: dict[str, Any]) -> dict[str, Any]:
    """A body without the hash by which a cached prefix is recognised."""
    assert body.get("displayName", "ot-").startswith("ot-")
    return {name: value for name, value in body.items() if name != "displayName"}


@pytest.mark.parametrize("exchange", WHOLE)
def test_a_whole_answer_reads_as_the_golden_one_and_counts_the_same(exchange: Exchange) -> None:
    played = play(exchange)
    if isinstance(played.result, Vectors):
        check_vectors(exchange, played, played.result)
        return
    answer = played.provider.answer(played.request, played.result, played.reply(played.last["response"]))
    check_record(exchange, played, answer.usage, answer.finish, answer.upstream_id)
    cost = cost_pico(answer.usage.tokens, played.model.rates)
    body = json.loads(replies.completion(head_of(played), answer, answer.usage, cost))
    assert comparable(body) == comparable(exchange.answer["body"])


@pytest.mark.parametrize("exchange", STREAMED)
def test_a_stream_reads_as_the_golden_one_and_counts_the_same(exchange: Exchange) -> None:
    played = play(exchange)
    upstream = exchange.bytes_of(played.last["response"])
    client, usage, stream = streamed(played, [upstream])
    assert said(client) == said(exchange.bytes_of(exchange.answer))
    if exchange.record is not None:
        check_record(exchange, played, usage, stream.finish, stream.upstream_id)


@pytest.mark.parametrize("exchange", STREAMED)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_where_a_stream_is_cut_changes_nothing(exchange: Exchange, line_end: bytes) -> None:
    played = play(exchange)
    upstream = exchange.bytes_of(played.last["response"]).replace(b"\r\n", b"\n").replace(b"\n", line_end)
    upstream += line_end if line_end == b"\r" else b""  # a lone CR at the very end may be half of a CRLF
    whole = streamed(played, [upstream])
    byte_by_byte = streamed(played, [upstream[i : i + 1] for i in range(len(upstream))])
    assert without_ids(byte_by_byte) == without_ids(whole)
    for cut in range(len(upstream)):
        assert without_ids(streamed(played, [upstream[:cut], upstream[cut:]])) == without_ids(whole)


def without_ids(result: tuple[bytes, Usage, Any]) -> tuple[Any, Usage]:
    return said(result[0]), result[1]


@pytest.mark.parametrize("exchange", REFUSED)
def test_a_failure_is_told_as_the_golden_one(exchange: Exchange) -> None:
    error, expected = play(exchange).failed().error, exchange.answer
    assert error.status == expected["status"]
    assert error.body() == expected["body"]
    told = {name.lower(): value for name, value in error.headers.items()}
    assert told == {name: value for name, value in expected["headers"].items() if name != "content-type"}


@pytest.mark.parametrize("exchange", REJECTED)
def test_what_has_no_translation_is_refused_before_any_call(exchange: Exchange) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_and_play(exchange)
    assert refused.value.status == exchange.answer["status"]
    told, golden = refused.value.body()["error"], exchange.answer["body"]["error"]
    assert {name: told[name] for name in golden} == golden


def check_and_play(exchange: Exchange) -> None:
    played = Played(exchange)
    if played.is_chat:
        rules.check_chat(played.request, played.model)
    else:
        rules.check_embeddings(played.model)
    next(played.calls())


def check_record(exchange: Exchange, played: Played, usage: Usage, finish: Any, upstream_id: str | None) -> None:
    record = exchange.record
    assert record is not None
    tokens, rates = usage.tokens, played.model.rates
    assert {name: getattr(tokens, name) for name in record["tokens"]} == record["tokens"]
    expected_rates = record["rates_pico_usd_per_token"]
    assert {name: getattr(rates, name) for name in expected_rates} == expected_rates
    assert cost_pico(tokens, rates) == record["cost_pico_usd"]["total"]
    assert (finish and finish.reason) == record["finish_reason"]
    assert (finish and finish.native) == record["native_finish_reason"]
    assert upstream_id == record["upstream_request_id"]
    assert played.model.upstream == record["upstream_model"]
    assert not usage.estimated


def check_vectors(exchange: Exchange, played: Played, result: Vectors) -> None:
    check_record(exchange, played, result.usage, None, result.upstream_id)
    cost = cost_pico(result.usage.tokens, played.model.rates)
    as_base64 = played.request.encoding_format == "base64"
    body = json.loads(replies.embeddings(played.model.id, result, cost, as_base64=as_base64))
    expected = exchange.answer["body"]
    assert {**body, "data": None} == {**expected, "data": None}
    for mine, golden in zip(body["data"], expected["data"], strict=True):
        assert {**mine, "embedding": None} == {**golden, "embedding": None}
        assert floats(mine["embedding"]) == pytest.approx(floats(golden["embedding"]), abs=1e-6)


def floats(embedding: Any) -> list[float]:
    if isinstance(embedding, list):
        return embedding
    raw = base64.b64decode(embedding)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def test_every_golden_url_is_one_of_its_providers() -> None:
    hosts = {urlsplit(call["url"]).hostname for one in FOUND for call in one.upstream}
    assert hosts == {"api.anthropic.com", "generativelanguage.googleapis.com"}
