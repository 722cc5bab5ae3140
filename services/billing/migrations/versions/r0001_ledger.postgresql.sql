-- Version 0001 for PostgreSQL. The same tables as in r0001_ledger.sqlite.sql: keep the two side by side.
-- Amounts are whole pico-dollars: BIGINT for one movement (± 9.2 million USD), NUMERIC(38,0) for running balances.

CREATE TABLE workspace (
    id          text        PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    name        text        NOT NULL,
    strict      boolean     NOT NULL,
    created_at  timestamptz NOT NULL
);

CREATE TABLE api_key (
    id               text        PRIMARY KEY,  -- the public id: it may stand in logs and records
    workspace_id     text        NOT NULL REFERENCES workspace,
    digest           text        NOT NULL UNIQUE CHECK (length(digest) = 64),  -- SHA-256 in hex; the key itself is kept nowhere
    label            text        NOT NULL,
    expires_at       timestamptz,
    revoked_at       timestamptz,
    spend_limit_pico bigint      CHECK (spend_limit_pico >= 0),
    limit_reset      text        CHECK (limit_reset IN ('daily', 'weekly', 'monthly')),  -- NULL: over the key's lifetime
    created_at       timestamptz NOT NULL
);
CREATE INDEX api_key_of_workspace ON api_key (workspace_id, id);

-- What one request used and what it cost: everything needed to compute the cost again.
CREATE TABLE usage_record (
    request_id               uuid        PRIMARY KEY,
    workspace_id             text        NOT NULL REFERENCES workspace,
    key_id                   text        NOT NULL,  -- no foreign key: usage is never refused because of a key
    lease_id                 text,
    provider                 text        NOT NULL,
    model                    text        NOT NULL,
    upstream_model           text        NOT NULL,
    supplier                 text,
    endpoint                 text        NOT NULL,
    stream                   boolean     NOT NULL,
    outcome                  text        NOT NULL,
    finish_reason            text,
    native_finish_reason     text,
    input_tokens             bigint      NOT NULL CHECK (input_tokens >= 0),
    cache_read_tokens        bigint      NOT NULL CHECK (cache_read_tokens >= 0),
    cache_write_tokens       bigint      NOT NULL CHECK (cache_write_tokens >= 0),
    cache_write_1h_tokens    bigint      NOT NULL CHECK (cache_write_1h_tokens >= 0),
    output_tokens            bigint      NOT NULL CHECK (output_tokens >= 0),
    reasoning_tokens         bigint      NOT NULL CHECK (reasoning_tokens >= 0),
    usage_source             text        NOT NULL,
    input_rate_pico          bigint      NOT NULL CHECK (input_rate_pico >= 0),
    cache_read_rate_pico     bigint      NOT NULL CHECK (cache_read_rate_pico >= 0),
    cache_write_rate_pico    bigint      NOT NULL CHECK (cache_write_rate_pico >= 0),
    cache_write_1h_rate_pico bigint      NOT NULL CHECK (cache_write_1h_rate_pico >= 0),
    output_rate_pico         bigint      NOT NULL CHECK (output_rate_pico >= 0),
    pricing_version          text        NOT NULL,
    cost_pico                bigint      NOT NULL CHECK (cost_pico >= 0),
    service_tier             text        NOT NULL,
    started_at               timestamptz NOT NULL,
    first_byte_ms            bigint,
    duration_ms              bigint      NOT NULL,
    upstream_request_id      text,
    upstream_usage           text,                  -- canonical JSON as text: jsonb would rewrite what was recorded
    attempts                 text        NOT NULL,  -- likewise
    user_digest              text,
    recorded_at              timestamptz NOT NULL
);
-- A workspace's usage in the order of the books, page by page.
CREATE INDEX usage_of_workspace ON usage_record (workspace_id, recorded_at, request_id);
-- What a key spent since a moment; the cost stands in the index, so the table is not touched.
CREATE INDEX spend_of_key ON usage_record (key_id, recorded_at) INCLUDE (cost_pico);

-- One row is one signed movement of a workspace's credit together with its counter-account: a whole double entry.
CREATE TABLE ledger_entry (
    entry_id           uuid          PRIMARY KEY,
    shard              integer       NOT NULL,
    workspace_id       text          NOT NULL REFERENCES workspace,
    seq                bigint        NOT NULL CHECK (seq >= 1),
    contra             text          NOT NULL CHECK (contra IN ('revenue', 'cash', 'promo', 'refund', 'adjustment')),
    amount_pico        bigint        NOT NULL CHECK (amount_pico <> 0),
    balance_after_pico numeric(38,0) NOT NULL,
    request_id         uuid          UNIQUE REFERENCES usage_record,
    reference          text,
    reverses           uuid          REFERENCES ledger_entry,
    reason             text,
    actor              text          NOT NULL,
    recorded_at        timestamptz   NOT NULL,
    UNIQUE (workspace_id, seq),
    UNIQUE (workspace_id, reference),
    -- Usage is a debit to revenue that names its request; anything else names the payment or document behind it.
    CHECK (CASE WHEN request_id IS NULL THEN reference IS NOT NULL
                ELSE reference IS NULL AND contra = 'revenue' AND amount_pico < 0 END)
);

-- Working tables, not the ledger. The digest makes a redelivered message change nothing.
CREATE TABLE conflict (  -- a second, different record of a request: the first one stands, a person decides
    digest      text        PRIMARY KEY,
    request_id  uuid        NOT NULL REFERENCES usage_record,
    body        bytea       NOT NULL,
    recorded_at timestamptz NOT NULL
);
CREATE TABLE quarantine (  -- what could not be booked at all, whole, with the reason
    digest      text        PRIMARY KEY,
    body        bytea       NOT NULL,
    reason      text        NOT NULL,
    recorded_at timestamptz NOT NULL
);

-- Append-only. Per statement, so that even a change that meets no row is refused.
-- ENABLE ALWAYS: session_replication_role = replica would pass ordinary triggers.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: post a correcting entry instead', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER usage_record_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON usage_record
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER ledger_entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE usage_record ENABLE ALWAYS TRIGGER usage_record_append_only;
ALTER TABLE ledger_entry ENABLE ALWAYS TRIGGER ledger_entry_append_only;

-- The insert guard: an entry continues its predecessor without a gap. On a transition table, so it runs once per
-- statement and also under COPY. The function's plan is kept for the session, and one made while the table was
-- empty would scan it for ever: hence enable_seqscan, and a subquery that can only be an index look-up.
CREATE FUNCTION guard_entries() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    bad record;
BEGIN
    SELECT workspace_id, seq INTO bad FROM added
    WHERE balance_after_pico - amount_pico IS DISTINCT FROM CASE seq WHEN 1 THEN 0 ELSE (
        SELECT previous.balance_after_pico FROM ledger_entry AS previous
        WHERE previous.workspace_id = added.workspace_id AND previous.seq = added.seq - 1) END
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger_entry % of workspace % does not continue the entry before it', bad.seq, bad.workspace_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER ledger_entry_guard AFTER INSERT ON ledger_entry
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION guard_entries();
ALTER TABLE ledger_entry ENABLE ALWAYS TRIGGER ledger_entry_guard;
