"""The tables as SQLAlchemy Core sees them; the schema itself is the SQL of `migrations`.

The same Python values on both databases: `int` amounts, aware UTC datetimes, ids as text (`columns`).
"""

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text

from services.billing.columns import Balance, Flag, Id, Moment

MAX_AMOUNT_PICO = 2**63 - 1  # BIGINT, in both databases: 9.2 million USD in one movement
MAX_BALANCE_PICO = {"postgresql": 10**38 - 1, "sqlite": 2**63 - 1}  # NUMERIC(38,0); SQLite's widest integer


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
