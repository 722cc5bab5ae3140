"""What billing's API takes: bodies and query strings as strict models."""

import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from services.billing.standing import LimitReset
from shared.bodies import Strict
from shared.money import pico_usd

DEFAULT_PAGE, MAX_PAGE = 100, 1000  # rows: a page stays below a megabyte or two
MAX_CREDIT_USD = 1_000_000  # one credit; far within BIGINT, and a slip of some zeros is refused
_USD = re.compile(r"[0-9]{1,7}(\.[0-9]{1,12})?")


def _amount_pico(usd: object) -> int:
    if not isinstance(usd, str) or not _USD.fullmatch(usd):
        raise ValueError('write it as a decimal string of USD with at most 12 decimals, such as "12.50"')
    return pico_usd(usd)


def _signed_pico(usd: object) -> int:
    negative = isinstance(usd, str) and usd.startswith("-")
    amount_pico = _amount_pico(usd[1:] if negative and isinstance(usd, str) else usd)
    return -amount_pico if negative else amount_pico


def _moves(amount_pico: int) -> int:
    if not amount_pico:
        raise ValueError("an adjustment of nothing changes nothing: give an amount")
    return amount_pico


def _moment(text: object) -> datetime:
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        if moment is not None and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError("write it as an RFC 3339 time with its zone, such as 2026-01-31T00:00:00Z")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters are not allowed")
    return unicodedata.normalize("NFC", text)  # the form in which it has a leaf


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Index = Annotated[int, Field(ge=0, lt=2**62)]  # within BIGINT, also where one is added
Moment = Annotated[datetime, BeforeValidator(_moment)]
AmountPico = Annotated[int, BeforeValidator(_amount_pico)]
SignedPico = Annotated[int, BeforeValidator(_signed_pico)]


class NewWorkspace(Strict):
    """POST /admin/workspaces."""

    name: Name
    strict: bool = False
    id: Id | None = None


class NewKey(Strict):
    """POST /admin/workspaces/{id}/keys. `secret` makes a given text the key, for bootstrapping only."""

    label: Name
    expires_at: Moment | None = None
    spend_limit_usd: AmountPico | None = None
    limit_reset: LimitReset | None = None
    secret: Annotated[str, Field(pattern=r"^[!-~]{8,200}$")] | None = None


class NewCredit(Strict):
    """POST /admin/workspaces/{id}/credits."""

    amount_usd: Annotated[AmountPico, Field(gt=0, le=MAX_CREDIT_USD * 10**12)]
    reference: Name
    reason: Name | None = None
    contra: Literal["cash", "promo"] = "cash"


class NewRefund(Strict):
    """POST /admin/workspaces/{id}/refunds: of the entry it reverses, all that is left where no amount is given."""

    reverses: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    reference: Name
    reason: Name
    amount_usd: Annotated[AmountPico, Field(gt=0, le=MAX_CREDIT_USD * 10**12)] | None = None


class NewAdjustment(Strict):
    """POST /admin/workspaces/{id}/adjustments: up, or down with a minus sign."""

    amount_usd: Annotated[
        SignedPico, Field(ge=-MAX_CREDIT_USD * 10**12, le=MAX_CREDIT_USD * 10**12), AfterValidator(_moves)
    ]
    reference: Name
    reason: Name


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
