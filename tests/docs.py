"""The parts of the documentation that come from the code: `python -m tests.docs` writes them, `--check` compares.

In the READMEs they stand between `<!-- name:begin -->` and `<!-- name:end -->`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import orjson

from shared import catalog
from shared.bus.topology import definitions
from shared.errors import ApiError
from shared.events import POLICY, UsageRecorded
from tests.sources import ROOT


def models() -> str:
    """The table of models."""
    rows = [
        f"| `{model.id}` | {model.price.input} | {model.price.output} | {model.price.cache_read or '–'} "
        f"| {model.price.cache_write or '–'} | {model.context_length:,} | {model.max_output_tokens:,} |"
        for model in catalog.load()
    ]
    head = "| model | input | output | cache read | cache write | context | max output |\n|---|---|---|---|---|---|---|"
    return "\n".join([head, *rows])


def errors() -> str:
    """The table of errors."""
    rows = [
        f"| {error.status} | `{error.type}` | {f'`{error.code}`' if error.code else 'null'} "
        f"| {(error.__doc__ or '').splitlines()[0]} |"
        for error in sorted(_errors(ApiError), key=lambda error: (error.status, error.type, error.code or ""))
        if error is not ApiError
    ]
    return "\n".join(["| status | type | code | message |\n|---|---|---|---|", *rows])


def policy() -> str:
    """The table of what is billed, for each outcome."""
    rows = [
        f"| `{outcome}` | {terms.when} | {terms.tokens} | {'tokens × rates' if terms.billed else '0'} |"
        for outcome, terms in POLICY.items()
    ]
    return "\n".join(["| outcome | when | tokens | debit |\n|---|---|---|---|", *rows])


def event_schema() -> str:
    """The JSON Schema of the usage event's data."""
    return orjson.dumps(UsageRecorded.model_json_schema(), option=orjson.OPT_INDENT_2).decode() + "\n"


def broker() -> str:
    """The definitions of RabbitMQ for one shard."""
    return orjson.dumps(definitions(1), option=orjson.OPT_INDENT_2).decode() + "\n"


def _errors(root: type[ApiError]) -> Iterator[type[ApiError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == "shared.errors":
            yield from _errors(child)


def _filled(path: Path, **parts: str) -> str:
    """A page with its generated parts in their places."""
    text = path.read_text("utf-8")
    for name, content in parts.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        assert found, f"{path.name} has no place for {name}"
        text = f"{before}{begin}{content}\n{end}{after}"
    return text


def main() -> int:
    """Write what is stale; with --check, name it and fail."""
    readme, billing = ROOT / "README.md", ROOT / "services/billing/README.md"
    fresh = {
        readme: _filled(readme, models=models(), errors=errors()),
        billing: _filled(billing, policy=policy()),
        ROOT / "shared/usage.recorded.v1.schema.json": event_schema(),
        ROOT / "deploy/rabbitmq/definitions.json": broker(),
    }
    stale = [path for path, text in fresh.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if "--check" in sys.argv[1:]:
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale: run `make docs` and commit it\n")
        else:
            path.write_text(fresh[path], "utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
