"""Prometheus metrics that more than one service keeps, and the app that serves them on the internal port."""

from aiohttp import web
from prometheus_client import Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

REQUESTS = Counter("opentoken_http_requests_total", "Requests answered.", ["service", "route", "status"])
DURATION = Histogram(
    "opentoken_http_request_duration_seconds",
    "Time from a request's head to the end of its answer.",
    ["service", "route"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300),
)


def build_app() -> web.Application:
    """`GET /metrics` in the Prometheus text format."""
    app = web.Application()
    app.router.add_get("/metrics", _metrics)
    return app


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
