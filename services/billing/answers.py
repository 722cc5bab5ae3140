"""What billing's API answers about the books, as models: for its OpenAPI document, and for tests of real answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Usd = Annotated[str, Field(description="USD as a decimal string, never rounded")]
Pico = Annotated[str, Field(description="pico-dollars (1e-12 USD) as a decimal string")]
Moment = Annotated[str, Field(description="RFC 3339 in UTC, with six digits")]
Contra = Literal["revenue", "cash", "promo", "refund", "adjustment"]


class Answer(BaseModel):
    """An object with these members and no others."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Answer):
    """What was wrong, and where in the request."""

    message: str
    type: Literal["invalid_request_error", "authentication_error", "api_error"]
    code: str | None
    param: str | None = None
    event_id: str | None = Field(default=None, description="with a 500: what to quote to the operator")


class Error(Answer):
    """The envelope of every error."""

    error: ErrorDetail


class Balance(Answer):
    """What a workspace has left after its entry number `seq`."""

    workspace_id: str
    balance_pico_usd: Pico
    balance_usd: Usd
    seq: int
    as_of: Moment


class Tokens(Answer):
    """Disjoint buckets; `reasoning` is a part of `output`."""

    input: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    output: int
    reasoning: int


class Rates(Answer):
    """Pico-dollars per token."""

    input: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    output: int


class Record(Answer):
    """What a request used and cost; tokens × rates make the cost, unless the outcome is free of charge."""

    id: str
    request_id: str
    workspace_id: str
    key_id: str
    model: str
    provider: str
    upstream_model: str
    endpoint: Literal["chat.completions", "embeddings"]
    stream: bool
    outcome: str
    finish_reason: str | None
    native_finish_reason: str | None
    usage_source: Literal["reported", "estimated"]
    service_tier: str
    tokens: Tokens
    rates_pico_usd_per_token: Rates
    pricing_version: str
    cost_pico_usd: Pico
    cost_usd: Usd
    started_at: Moment
    first_byte_ms: int | None
    duration_ms: int
    upstream_request_id: str | None
    attempts: list[dict[str, Any]]


class RecordedUsage(Record):
    """A record in the list of a workspace's usage."""

    recorded_at: Moment


class Path(Answer):
    """Hashes that lead from a leaf to the root of a signed checkpoint, upwards, in base64."""

    shard: int
    leaf_index: int
    tree_size: int
    path: list[str]
    checkpoint: str


class Proof(Path):
    """That a row is in the books: its leaf, word for word, and the way to a signed root."""

    leaf: str


class Inclusion(Path):
    """That a leaf is in a tree."""

    leaf_hash: str


class Consistency(Answer):
    """That a tree begins with an earlier one."""

    shard: int
    first: int
    second: int
    path: list[str]
    first_checkpoint: str
    second_checkpoint: str


class Checkpoint(Answer):
    """What was signed: `checkpoint` is the note itself, the rest is read from it."""

    shard: int
    tree_size: int
    root: str
    checkpoint: str
    recorded_at: Moment


class Debit(Answer):
    """The entry that a request made; `proof` is null until a signed checkpoint covers it."""

    entry_id: str
    seq: int
    amount_pico_usd: Pico
    balance_after_pico_usd: Pico
    leaf_index: int
    proof: Proof | None


class Receipt(Record):
    """A record with its debit, which is null where the request cost nothing."""

    debit: Debit | None
    proof: Proof | None


class Entry(Answer):
    """One signed movement of a workspace's credit, with its counter-account."""

    entry_id: str
    workspace_id: str
    seq: int
    amount_pico_usd: Pico
    amount_usd: Usd
    balance_after_pico_usd: Pico
    balance_after_usd: Usd
    contra: Contra
    request_id: str | None
    reference: str | None
    reverses: str | None
    reason: str | None
    actor: str
    recorded_at: Moment


class UsageLine(Answer):
    """What one key used of one model within a month."""

    model: str
    key_id: str
    requests: int
    tokens: Tokens
    amount_pico_usd: Pico
    amount_usd: Usd


class Statement(Answer):
    """Opening balance + the amounts of `usage` and `movements` = closing balance."""

    workspace_id: str
    month: str
    complete: Annotated[bool, Field(description="false while the month goes on")]
    opening_seq: int
    opening_balance_pico_usd: Pico
    opening_balance_usd: Usd
    usage: list[UsageLine]
    movements: list[Entry]
    closing_seq: int
    closing_balance_pico_usd: Pico
    closing_balance_usd: Usd
    closing_leaf_index: Annotated[
        int | None, Field(description="the leaf of entry closing_seq; null where there is none")
    ]
    checkpoint: Annotated[str | None, Field(description="the newest signed one, word for word")]
    checkpoint_covers_closing: Annotated[
        bool, Field(description="whether the tree that it signs holds that leaf; if not, ask again in 10 s")
    ]
    as_of: Moment


class Page(Answer):
    """A part of a list; `next_cursor` leads to the next one."""

    object: Literal["list"]
    has_more: bool
    next_cursor: str | None


class UsageList(Page):
    """Records in the order of the books."""

    data: list[RecordedUsage]


class EntryList(Page):
    """Entries by number."""

    data: list[Entry]


class CheckpointList(Page):
    """A page of signed checkpoints."""

    data: list[Checkpoint]


class Ready(Answer):
    """How the service is."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] | None = None
