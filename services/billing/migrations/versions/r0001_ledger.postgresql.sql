-- Version 0001 for PostgreSQL. The same tables as in r0001_ledger.sqlite.sql: keep the two side by side.
-- Amounts are whole pico-dollars: BIGINT for one movement (± 9.2 million USD), NUMERIC(38,0) for running balances.

CREATE TABLE workspace (
    id          text        PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    name        text        NOT NULL,
    strict      boolean     NOT NULL,
    created_at  timestamptz NOT NULL
);

CREATE TABLE api_key (
    id                  text        PRIMARY KEY,  -- the public id: it may stand in logs and records
    workspace_id        text        NOT NULL REFERENCES workspace,
    digest              text        NOT NULL UNIQUE CHECK (length(digest) = 64),  -- SHA-256 in hex; the key itself is kept nowhere
    label               text        NOT NULL,
    expires_at          timestamptz,
    revoked_at          timestamptz,
    spend_limit_pico    bigint      CHECK (spend_limit_pico >= 0),
    limit_reset         text        CHECK (limit_reset IN ('daily', 'weekly', 'monthly')),  -- NULL: over the key's lifetime
    requests_per_minute bigint      CHECK (requests_per_minute > 0),  -- NULL: no limit
    tokens_per_minute   bigint      CHECK (tokens_per_minute > 0),
    created_at          timestamptz NOT NULL
);
CREATE INDEX api_key_of_workspace ON api_key (workspace_id, id);

-- What one request used and what it cost: everything needed to compute the cost again.
-- In monthly partitions by request id: a UUIDv7 begins with its time, so the id alone stays the key.
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
    recorded_at              timestamptz NOT NULL,
    shard                    integer     NOT NULL,
    leaf_index               bigint      NOT NULL CHECK (leaf_index >= 0)
) PARTITION BY RANGE (request_id);
-- What no month takes is kept here, not refused: ids that are no UUIDv7, and a month that was not made in time.
CREATE TABLE usage_record_default PARTITION OF usage_record DEFAULT;
-- The rows in the order of their leaves, for audits.
CREATE INDEX usage_by_leaf ON usage_record (shard, leaf_index);
-- A workspace's usage in the order of the books, page by page.
CREATE INDEX usage_of_workspace ON usage_record (workspace_id, recorded_at, request_id);

-- One row is one signed movement of a workspace's credit together with its counter-account: a whole double entry.
CREATE TABLE ledger_entry (
    entry_id           uuid          PRIMARY KEY,
    shard              integer       NOT NULL,
    leaf_index         bigint        NOT NULL CHECK (leaf_index >= 0),
    workspace_id       text          NOT NULL REFERENCES workspace,
    seq                bigint        NOT NULL CHECK (seq >= 1),
    contra             text          NOT NULL CHECK (contra IN ('revenue', 'cash', 'promo', 'refund', 'adjustment')),
    amount_pico        bigint        NOT NULL CHECK (amount_pico <> 0),
    balance_after_pico numeric(38,0) NOT NULL,
    request_id         uuid          UNIQUE,  -- of a usage_record: the guard below sees to it, faster than a foreign key
    reference          text,
    reverses           uuid          REFERENCES ledger_entry,
    reason             text,
    actor              text          NOT NULL,
    recorded_at        timestamptz   NOT NULL,
    UNIQUE (workspace_id, seq),
    UNIQUE (shard, leaf_index),
    CHECK (contra <> 'refund' OR reverses IS NOT NULL),
    CHECK (contra NOT IN ('refund', 'adjustment') OR reason IS NOT NULL),
    -- Usage is a debit to revenue that names its request; anything else names the payment or document behind it.
    CHECK (CASE WHEN request_id IS NULL THEN reference IS NOT NULL
                ELSE reference IS NULL AND contra = 'revenue' AND amount_pico < 0 END)
);

-- Partial, so that a look-up by (workspace_id, seq) cannot go by this one's first half through all of a workspace.
CREATE UNIQUE INDEX entry_of_reference ON ledger_entry (workspace_id, reference) WHERE reference IS NOT NULL;
CREATE INDEX reversals_of_entry ON ledger_entry (reverses) WHERE reverses IS NOT NULL;
-- A workspace's entries of a time. Every row is in it: its condition only keeps it from look-ups that name no time.
-- SQLite has none: it walks the entries by seq, the order in which they are wanted, whether there is this index or not.
CREATE INDEX entry_of_time ON ledger_entry (workspace_id, recorded_at) WHERE recorded_at IS NOT NULL;

-- The Merkle tree of each shard (RFC 6962): one row for each batch, with the nodes that it completed.
CREATE TABLE checkpoint (
    shard       integer     NOT NULL,
    tree_size   bigint      NOT NULL CHECK (tree_size >= 1),
    root        bytea       NOT NULL CHECK (length(root) = 32),
    frontier    bytea       NOT NULL,  -- the roots of the complete subtrees, the largest first
    first_node  bigint      NOT NULL,  -- the place of the first of `nodes` among all of the tree's
    nodes       bytea       NOT NULL,  -- leaf by leaf: its hash, then those of the subtrees it closes, upwards
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (shard, tree_size)
);
-- Hashes do not compress, and a slice of a value that is kept plain can be read without the rest.
ALTER TABLE checkpoint ALTER COLUMN nodes SET STORAGE EXTERNAL;

-- What was signed, word for word as it was published.
CREATE TABLE signed_checkpoint (
    shard       integer     NOT NULL,
    tree_size   bigint      NOT NULL,
    note        text        NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (shard, tree_size),
    FOREIGN KEY (shard, tree_size) REFERENCES checkpoint
);

-- Every call that an administrator made, written down before it was carried out.
CREATE TABLE admin_log (
    id           uuid        PRIMARY KEY,
    actor        text        NOT NULL,
    method       text        NOT NULL,
    path         text        NOT NULL,
    body         text        NOT NULL,  -- without secrets
    workspace_id text,                  -- whose, as far as it can be told before the call; it need not exist
    recorded_at  timestamptz NOT NULL
);
CREATE INDEX admin_log_of_time ON admin_log (recorded_at, id);
CREATE INDEX admin_log_of_workspace ON admin_log (workspace_id, recorded_at, id);

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
-- Which request an Idempotency-Key stands for. The answer is a customer's content, and is deleted after a day.
CREATE TABLE idempotency_key (
    workspace_id text        NOT NULL REFERENCES workspace,
    key_digest   text        NOT NULL,  -- SHA-256 in hex, as is the body's
    body_digest  text        NOT NULL,
    request_id   uuid        NOT NULL UNIQUE,
    stream       boolean     NOT NULL,
    answer       bytea,                 -- NULL: it runs, or its answer cannot be given again
    claimed_at   timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, key_digest)
);
CREATE INDEX idempotency_key_by_age ON idempotency_key (claimed_at);

-- Credit lent to edges, and what is known of it without reading the books through. Working tables, whose rows change;
-- losing the first two frees what was lent, and the third can be made anew from usage_record.
CREATE TABLE lease (  -- a part of a workspace's credit, or, under a key's id, of what that key may still spend
    lease_id      text        NOT NULL,
    key_id        text        NOT NULL,
    edge          text        NOT NULL,
    workspace_id  text        NOT NULL REFERENCES workspace,
    granted_pico  bigint      NOT NULL CHECK (granted_pico >= 0),  -- totals since the lease began
    returned_pico bigint      NOT NULL CHECK (returned_pico >= 0),
    used_pico     bigint      NOT NULL CHECK (used_pico >= 0),
    closed        boolean     NOT NULL,
    expires_at    timestamptz NOT NULL,
    PRIMARY KEY (lease_id, key_id)
);
CREATE INDEX lease_of_workspace ON lease (workspace_id, key_id);
CREATE INDEX lease_of_key ON lease (key_id);
-- What is on the books of a lease, by key and, as key '', in all; moved by the transaction that books it.
CREATE TABLE lease_booked (
    lease_id  text          NOT NULL,
    key_id    text          NOT NULL,
    cost_pico numeric(38,0) NOT NULL,
    PRIMARY KEY (lease_id, key_id)
) WITH (fillfactor = 50);  -- room for a row's next version beside it: the same few rows change with every batch
-- What a key spent on a day (UTC), likewise; verify holds it against usage_record.
CREATE TABLE key_spend (
    key_id    text          NOT NULL,
    day       text          NOT NULL,
    cost_pico numeric(38,0) NOT NULL,
    PRIMARY KEY (key_id, day)
) WITH (fillfactor = 50);

-- Append-only. Per statement, so that even a change that meets no row is refused.
-- ENABLE ALWAYS: session_replication_role = replica would pass ordinary triggers.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: post a correcting entry instead', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE PROCEDURE make_append_only(name text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I'
                   ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER append_only', name);
END $$;
CALL make_append_only('usage_record');
CALL make_append_only('usage_record_default');  -- a trigger per statement does not reach a partition named itself
CALL make_append_only('ledger_entry');
CALL make_append_only('checkpoint');
CALL make_append_only('signed_checkpoint');
CALL make_append_only('admin_log');

-- Makes the partitions of this month and those ahead, as far as they are missing; how many it made. The service calls
-- it, and has no other way to change the schema: hence SECURITY DEFINER. Where an audit reads the table it gives up
-- soon, since whoever books would wait behind it; it is called again.
CREATE FUNCTION make_partitions(months_ahead integer) RETURNS integer LANGUAGE plpgsql
    SECURITY DEFINER SET search_path FROM CURRENT SET opentoken.migration = 'on' SET lock_timeout = '2s' AS $$
DECLARE
    first date;
    name text;
    made integer := 0;
BEGIN
    IF months_ahead NOT BETWEEN 0 AND 24 THEN
        RAISE EXCEPTION 'from 0 to 24 months ahead, not %', months_ahead USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR first IN SELECT date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => ahead)
                 FROM generate_series(0, months_ahead) AS ahead LOOP
        name := to_char(first, '"usage_record_"YYYY_MM');
        CONTINUE WHEN to_regclass(name) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE TABLE %I PARTITION OF usage_record FOR VALUES FROM (%L) TO (%L)',
                           name, first_id_of(first), first_id_of((first + interval '1 month')::date));
            CALL make_append_only(name);
            made := made + 1;
        EXCEPTION WHEN check_violation THEN  -- a clock was ahead; this month stays where it is, the others go on
            RAISE WARNING '%: rows of that month are in usage_record_default', name;
        END;
    END LOOP;
    RETURN made;
END $$;

-- The smallest UUIDv7 of a day: its milliseconds in 48 bits, then zeros.
CREATE FUNCTION first_id_of(day date) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM day::timestamp) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
SELECT make_partitions(3);

-- The insert guard: an entry continues its predecessor without a gap, a debit is what its record costs, and reversals
-- of an entry, in its workspace and of the other sign, are together no more than it. On a transition table, so it runs
-- once per statement and also under COPY. The function's plans are kept for the session, and those made while a table
-- was empty would scan or join the whole of it for ever: hence enable_seqscan, and only subqueries with one value,
-- which can be nothing but index look-ups.
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
    SELECT workspace_id, seq INTO bad FROM added
    WHERE request_id IS NOT NULL AND (
        SELECT record.cost_pico = -added.amount_pico AND record.workspace_id = added.workspace_id
        FROM usage_record AS record WHERE record.request_id = added.request_id) IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger_entry % of workspace % is not what its usage_record costs', bad.seq, bad.workspace_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    SELECT workspace_id, seq INTO bad FROM added
    WHERE reverses IS NOT NULL AND (
        SELECT original.workspace_id = added.workspace_id AND sign(original.amount_pico) <> sign(added.amount_pico)
           AND abs(original.amount_pico::numeric) >= (SELECT abs(sum(reversal.amount_pico)) FROM ledger_entry AS reversal
                                                      WHERE reversal.reverses = original.entry_id)
        FROM ledger_entry AS original WHERE original.entry_id = added.reverses) IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger_entry % of workspace % reverses more than there is', bad.seq, bad.workspace_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER ledger_entry_guard AFTER INSERT ON ledger_entry
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION guard_entries();
ALTER TABLE ledger_entry ENABLE ALWAYS TRIGGER ledger_entry_guard;
