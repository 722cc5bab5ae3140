"""What billing's API takes to read the books: bodies and query strings as strict models."""

import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from services.billing.accounts import without_secrets
from shared.bodies import Strict

DEFAULT_PAGE, MAX_PAGE = 100, 1000  # rows: a page stays below a megabyte or two
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_MOMENT_TEXT = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


def _moment(text: object) -> datetime:
    try:
        if isinstance(text, str) and _RFC_3339.fullmatch(
            text
        ):  # ISO 8601 has weeks, and more, that clients may not mean
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError("write it as an RFC 3339 time with its zone, such as 2026-01-31T00:00:00Z")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters are not allowed")
    if without_secrets(text) != text:
        raise ValueError("it holds the text of a key, which is kept nowhere: use the key's id")
    return unicodedata.normalize("NFC", text)  # the form in which it has a leaf


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Index = Annotated[int, Field(ge=0, lt=2**62)]  # within BIGINT, also where one is added
Moment = Annotated[datetime, BeforeValidator(_moment, json_schema_input_type=_MOMENT_TEXT)]


class KeyDigest(Strict):
    """POST /internal/standing: SHA-256 of the key, in hex."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Query(Strict):
    """A query string; every value is text."""

    model_config = ConfigDict(strict=False)


class PageQuery(Query):
    """Which page of a list."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Name | None = None


class ShardQuery(Query):
    """Which shard's tree."""

    shard: Annotated[int, Field(ge=0, le=255)] = 0


class SizeOf(Query):
    """The size in a checkpoint's path."""

    size: Index


class CheckpointsQuery(ShardQuery):
    """GET /v1/checkpoints; `cursor` is a size."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Index = 0


class InclusionQuery(ShardQuery):
    """GET /v1/proofs/inclusion; without `tree_size`, in the newest signed tree."""

    leaf_index: Index
    tree_size: Index | None = None


class ConsistencyQuery(ShardQuery):
    """GET /v1/proofs/consistency: that the tree of `second` leaves, or the newest, begins with that of `first`."""

    first: Index
    second: Index | None = None


class PeriodQuery(PageQuery):
    """And of which time: `from` is inside, `to` is not."""

    start: Moment | None = Field(None, alias="from")
    end: Moment | None = Field(None, alias="to")


class UsageQuery(PeriodQuery):
    """GET /v1/workspaces/{id}/usage."""

    model: Name | None = None
    key_id: Name | None = None


class EntriesQuery(PeriodQuery):
    """GET /v1/workspaces/{id}/entries."""

    contra: Literal["revenue", "cash", "promo", "refund", "adjustment"] | None = None


class LogQuery(PeriodQuery):
    """GET /admin/log: and what concerned which workspace."""

    cursor: Uuid | None = None
    workspace_id: Name | None = None


class ExportQuery(Query):
    """GET /v1/export.jsonl: whose rows, and recorded when; `from` is inside, `to` is not."""

    workspace_id: Name | None = None
    start: Moment | None = Field(None, alias="from")
    end: Moment | None = Field(None, alias="to")


class TableQuery(ExportQuery):
    """GET /v1/export.csv: and which of the two tables."""

    kind: Literal["usage", "entries"]


class ReceiptQuery(Query):
    """GET /v1/generations/{id}."""

    workspace_id: Name | None = None
