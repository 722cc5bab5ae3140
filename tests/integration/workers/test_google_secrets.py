"""What is ours, and the provider or the machine might repeat, reaches neither a client nor a log."""

import pytest
import structlog
from aiohttp import web

from tests.integration.workers.google import EMBEDDINGS, Google, cached, embed, hello
from tests.unit.simulator.vertex import EMAIL, PROJECT, key_pair, tell
from tests.unit.workers.running import provider_that

EITHER_WAY = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def private_key_line() -> str:
    return key_pair().private.splitlines()[1]


def check_discreet(*told: str) -> None:
    for words in told:
        for secret in (private_key_line(), "ya29.", EMAIL, PROJECT, "http://", "127.0.0.1"):
            assert secret not in words, words


@EITHER_WAY
async def test_nothing_of_ours_is_shown_to_a_client_or_a_log(google: Google, stream: bool) -> None:
    with structlog.testing.capture_logs() as logs:
        async with google.worker("invalid", locations="us-central1,global") as worker:
            answers = [await worker.ask(hello(stream=stream)), await worker.ask(cached(stream=stream))]
            await tell(google, key_pair())
            answers += [
                await worker.ask(hello(stream=stream, service_tier="flex")),
                await worker.ask(hello(f'Hi [[status=403 message="{EMAIL} lacks access to projects/{PROJECT}"]]')),
                await worker.ask(hello(f'Hi [[status=400 message="see http://x/{PROJECT} of {PROJECT}"]]')),
                await worker.ask(embed("Hi"), EMBEDDINGS),
            ]
    assert {answer.status for answer in answers} == {200, 400, 502}
    assert logs, "attempts that failed are logged"
    check_discreet(
        *(answer.body.decode() for answer in answers), *(str(answer.headers) for answer in answers), str(logs)
    )


@EITHER_WAY
async def test_a_provider_that_repeats_our_token_is_not_repeated(google: Google, stream: bool) -> None:
    async def indiscreet(request: web.Request) -> web.Response:
        words = f"{request.headers['Authorization']} may not see {request.url}: ask {EMAIL}"
        return web.json_response({"error": {"code": 400, "message": words}}, status=400)

    with structlog.testing.capture_logs() as logs:
        async with provider_that(indiscreet) as url, google.worker(locations="global", vertex_url=url) as worker:
            answer = await worker.ask(hello(stream=stream))
    assert (answer.status, answer.code) == (400, "upstream_error")
    check_discreet(answer.body.decode(), str(logs))
