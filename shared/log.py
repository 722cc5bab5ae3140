"""Logs: facts in snake_case with `request_id`, `workspace_id`, `model`; never a prompt, an answer or a secret."""

import logging
import sys
from typing import Literal

import orjson
import structlog
from structlog.tracebacks import ExceptionDictTransformer

# Without the frames' variables: those hold keys, tokens and prompts.
TRACEBACKS = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))


def configure(log_format: Literal["console", "json"] | None, level: str) -> None:
    """Set up structlog for this process. `None` means a console at a terminal, else JSON lines on standard error."""
    as_json = (log_format or ("console" if sys.stderr.isatty() else "json")) == "json"
    steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        steps += [TRACEBACKS, structlog.processors.JSONRenderer(serializer=orjson.dumps)]
    else:
        plain = structlog.dev.plain_traceback
        steps += [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    numeric = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=steps,
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=(
            structlog.BytesLoggerFactory(sys.stderr.buffer) if as_json else structlog.PrintLoggerFactory(sys.stderr)
        ),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(numeric, logging.WARNING), format="%(levelname)s %(name)s %(message)s", force=True)
