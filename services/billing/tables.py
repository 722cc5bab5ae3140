"""The tables as SQLAlchemy Core sees them; the schema itself is the SQL of `migrations`.

The same Python values on both databases: `int` amounts, aware UTC datetimes, ids as text. SQLite compares what stands
there, not what it means: so a value in any form but the one that is written here is refused when it is read.
"""

from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from types import NoneType

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.types import TypeEngine

from shared.events import utc_text

MAX_AMOUNT_PICO = 2**63 - 1  # BIGINT, in both databases: 9.2 million USD in one movement
MAX_BALANCE_PICO = {"postgresql": 10**38 - 1, "sqlite": 2**63 - 1}  # NUMERIC(38,0); SQLite's widest integer


MOMENT_GLOB = "YYYY-YY-YYTYY:YY:YY.YYYYYYZ".replace("Y", "[0-9]")
"""The text of a moment on SQLite, for its GLOB."""


class Balance(TypeDecorator[int]):
    """A running balance: `int` here, NUMERIC(38,0) on PostgreSQL, INTEGER on SQLite."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[int] | TypeEngine[Decimal]:
        """The column's type."""
        return Numeric(38, 0) if dialect.name == "postgresql" else BigInteger()

    def process_result_value(self, value: int | Decimal | None, dialect: Dialect) -> int | None:
        """Exact, because the column holds no fraction. Raises ValueError where it is no integer."""
        if dialect.name == "sqlite" and type(value) not in {int, NoneType}:
            raise ValueError(f"{value!r} stands where a balance belongs")
        return None if value is None else int(value)


class Moment(TypeDecorator[datetime]):
    """A moment: an aware UTC datetime here, TIMESTAMPTZ on PostgreSQL, the text of `utc_text` on SQLite."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[datetime] | TypeEngine[str]:
        """The column's type."""
        return DateTime(timezone=True) if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        """A naive datetime is a mistake, never a guess."""
        assert value is None or value.tzinfo is not None
        return value if value is None or dialect.name == "postgresql" else utc_text(value)

    def process_result_value(self, value: datetime | str | None, _: Dialect) -> datetime | None:
        """In UTC, whatever the session's time zone. Raises ValueError where a text is not that of `utc_text`."""
        if value is None or isinstance(value, datetime):
            return value and value.astimezone(UTC)
        return _moment(value)


@lru_cache(maxsize=4096)  # the rows of a batch share a time
def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(str(text))  # also of what is no text: it is none
    if moment.tzinfo is not UTC or utc_text(moment) != text:
        raise ValueError(f"{text!r} is not how a moment is written")
    return moment


class Flag(TypeDecorator[bool]):
    """A boolean: BOOLEAN on PostgreSQL, 0 or 1 on SQLite."""

    impl = Boolean
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[bool] | TypeEngine[int]:
        """The column's type."""
        return Boolean() if dialect.name == "postgresql" else Integer()

    def process_result_value(self, value: int | None, _: Dialect) -> bool | None:
        """Raises ValueError where it is neither."""
        if value not in {0, 1, None} or isinstance(value, float):
            raise ValueError(f"{value!r} stands where 0 or 1 belongs")
        return None if value is None else bool(value)


Id = Text().with_variant(UUID(as_uuid=False), "postgresql")
"""A UUID in its canonical text."""

metadata = MetaData()

workspace = Table(
    "workspace",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text),
    Column("strict", Flag),
    Column("created_at", Moment),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("workspace_id", Text),
    Column("digest", Text),
    Column("label", Text),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("spend_limit_pico", BigInteger),
    Column("limit_reset", Text),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("created_at", Moment),
)

usage_record = Table(
    "usage_record",
    metadata,
    Column("request_id", Id, primary_key=True),
    Column("workspace_id", Text),
    Column("key_id", Text),
    Column("lease_id", Text),
    Column("provider", Text),
    Column("model", Text),
    Column("upstream_model", Text),
    Column("supplier", Text),
    Column("endpoint", Text),
    Column("stream", Flag),
    Column("outcome", Text),
    Column("finish_reason", Text),
    Column("native_finish_reason", Text),
    Column("input_tokens", BigInteger),
    Column("cache_read_tokens", BigInteger),
    Column("cache_write_tokens", BigInteger),
    Column("cache_write_1h_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("usage_source", Text),
    Column("input_rate_pico", BigInteger),
    Column("cache_read_rate_pico", BigInteger),
    Column("cache_write_rate_pico", BigInteger),
    Column("cache_write_1h_rate_pico", BigInteger),
    Column("output_rate_pico", BigInteger),
    Column("pricing_version", Text),
    Column("cost_pico", BigInteger),
    Column("service_tier", Text),
    Column("started_at", Moment),
    Column("first_byte_ms", BigInteger),
    Column("duration_ms", BigInteger),
    Column("upstream_request_id", Text),
    Column("upstream_usage", Text),
    Column("attempts", Text),
    Column("user_digest", Text),
    Column("recorded_at", Moment),
    Column("shard", Integer),
    Column("leaf_index", BigInteger),
)

ledger_entry = Table(
    "ledger_entry",
    metadata,
    Column("entry_id", Id, primary_key=True),
    Column("shard", Integer),
    Column("leaf_index", BigInteger),
    Column("workspace_id", Text),
    Column("seq", BigInteger),
    Column("contra", Text),
    Column("amount_pico", BigInteger),
    Column("balance_after_pico", Balance),
    Column("request_id", Id),
    Column("reference", Text),
    Column("reverses", Id),
    Column("reason", Text),
    Column("actor", Text),
    Column("recorded_at", Moment),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("shard", Integer, primary_key=True),
    Column("tree_size", BigInteger, primary_key=True),
    Column("root", LargeBinary),
    Column("frontier", LargeBinary),
    Column("first_node", BigInteger),
    Column("nodes", LargeBinary),
    Column("recorded_at", Moment),
)

signed_checkpoint = Table(
    "signed_checkpoint",
    metadata,
    Column("shard", Integer, primary_key=True),
    Column("tree_size", BigInteger, primary_key=True),
    Column("note", Text),
    Column("recorded_at", Moment),
)

admin_log = Table(
    "admin_log",
    metadata,
    Column("id", Id, primary_key=True),
    Column("actor", Text),
    Column("method", Text),
    Column("path", Text),
    Column("body", Text),
    Column("workspace_id", Text),
    Column("recorded_at", Moment),
)

idempotency_key = Table(
    "idempotency_key",
    metadata,
    Column("workspace_id", Text, primary_key=True),
    Column("key_digest", Text, primary_key=True),
    Column("body_digest", Text),
    Column("request_id", Id),
    Column("stream", Flag),
    Column("answer", LargeBinary),
    Column("claimed_at", Moment),
)

conflict = Table(
    "conflict",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("request_id", Id),
    Column("body", LargeBinary),
    Column("recorded_at", Moment),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("body", LargeBinary),
    Column("reason", Text),
    Column("recorded_at", Moment),
)

lease = Table(
    "lease",
    metadata,
    Column("lease_id", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("edge", Text),
    Column("workspace_id", Text),
    Column("granted_pico", BigInteger),
    Column("returned_pico", BigInteger),
    Column("used_pico", BigInteger),
    Column("closed", Flag),
    Column("expires_at", Moment),
)

lease_booked = Table(
    "lease_booked",
    metadata,
    Column("lease_id", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("cost_pico", Balance),
)

key_spend = Table(
    "key_spend",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("day", Text, primary_key=True),
    Column("cost_pico", Balance),
)
