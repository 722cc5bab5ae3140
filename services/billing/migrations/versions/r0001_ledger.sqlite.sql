-- Version 0001 for SQLite. The same tables as in r0001_ledger.postgresql.sql: keep the two side by side.
-- STRICT, because an integer that overflows becomes a REAL in any other table. Times are the text of
-- shared.events.utc_text, which sorts as the moments do; booleans are 0 and 1.

CREATE TABLE workspace (
    id          TEXT    NOT NULL PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64 AND id NOT GLOB '*[^A-Za-z0-9_-]*'),
    name        TEXT    NOT NULL,
    strict      INTEGER NOT NULL CHECK (strict IN (0, 1)),
    created_at  TEXT    NOT NULL
) STRICT;

CREATE TABLE api_key (
    id                  TEXT    NOT NULL PRIMARY KEY,  -- the public id: it may stand in logs and records
    workspace_id        TEXT    NOT NULL REFERENCES workspace,
    digest              TEXT    NOT NULL UNIQUE CHECK (length(digest) = 64),  -- SHA-256 in hex; the key itself is kept nowhere
    label               TEXT    NOT NULL,
    expires_at          TEXT,
    revoked_at          TEXT,
    spend_limit_pico    INTEGER CHECK (spend_limit_pico >= 0),
    limit_reset         TEXT    CHECK (limit_reset IN ('daily', 'weekly', 'monthly')),  -- NULL: over the key's lifetime
    requests_per_minute INTEGER CHECK (requests_per_minute > 0),  -- NULL: no limit
    tokens_per_minute   INTEGER CHECK (tokens_per_minute > 0),
    created_at          TEXT    NOT NULL
) STRICT;
CREATE INDEX api_key_of_workspace ON api_key (workspace_id, id);

-- What one request used and what it cost: everything needed to compute the cost again.
CREATE TABLE usage_record (
    request_id               TEXT    NOT NULL PRIMARY KEY,
    workspace_id             TEXT    NOT NULL REFERENCES workspace,
    key_id                   TEXT    NOT NULL,  -- no foreign key: usage is never refused because of a key
    lease_id                 TEXT,
    provider                 TEXT    NOT NULL,
    model                    TEXT    NOT NULL,
    upstream_model           TEXT    NOT NULL,
    supplier                 TEXT,
    endpoint                 TEXT    NOT NULL,
    stream                   INTEGER NOT NULL CHECK (stream IN (0, 1)),
    outcome                  TEXT    NOT NULL,
    finish_reason            TEXT,
    native_finish_reason     TEXT,
    input_tokens             INTEGER NOT NULL CHECK (input_tokens >= 0),
    cache_read_tokens        INTEGER NOT NULL CHECK (cache_read_tokens >= 0),
    cache_write_tokens       INTEGER NOT NULL CHECK (cache_write_tokens >= 0),
    cache_write_1h_tokens    INTEGER NOT NULL CHECK (cache_write_1h_tokens >= 0),
    output_tokens            INTEGER NOT NULL CHECK (output_tokens >= 0),
    reasoning_tokens         INTEGER NOT NULL CHECK (reasoning_tokens >= 0),
    usage_source             TEXT    NOT NULL,
    input_rate_pico          INTEGER NOT NULL CHECK (input_rate_pico >= 0),
    cache_read_rate_pico     INTEGER NOT NULL CHECK (cache_read_rate_pico >= 0),
    cache_write_rate_pico    INTEGER NOT NULL CHECK (cache_write_rate_pico >= 0),
    cache_write_1h_rate_pico INTEGER NOT NULL CHECK (cache_write_1h_rate_pico >= 0),
    output_rate_pico         INTEGER NOT NULL CHECK (output_rate_pico >= 0),
    pricing_version          TEXT    NOT NULL,
    cost_pico                INTEGER NOT NULL CHECK (cost_pico >= 0),
    service_tier             TEXT    NOT NULL,
    started_at               TEXT    NOT NULL,
    first_byte_ms            INTEGER,
    duration_ms              INTEGER NOT NULL,
    upstream_request_id      TEXT,
    upstream_usage           TEXT,              -- canonical JSON
    attempts                 TEXT    NOT NULL,  -- canonical JSON
    user_digest              TEXT,
    recorded_at              TEXT    NOT NULL,
    shard                    INTEGER NOT NULL,
    leaf_index               INTEGER NOT NULL CHECK (leaf_index >= 0),
    UNIQUE (shard, leaf_index)
) STRICT;
-- A workspace's usage in the order of the books, page by page.
CREATE INDEX usage_of_workspace ON usage_record (workspace_id, recorded_at, request_id);

-- One row is one signed movement of a workspace's credit together with its counter-account: a whole double entry.
CREATE TABLE ledger_entry (
    entry_id           TEXT    NOT NULL PRIMARY KEY,
    shard              INTEGER NOT NULL,
    leaf_index         INTEGER NOT NULL CHECK (leaf_index >= 0),
    workspace_id       TEXT    NOT NULL REFERENCES workspace,
    seq                INTEGER NOT NULL CHECK (seq >= 1),
    contra             TEXT    NOT NULL CHECK (contra IN ('revenue', 'cash', 'promo', 'refund', 'adjustment')),
    amount_pico        INTEGER NOT NULL CHECK (amount_pico <> 0),
    balance_after_pico INTEGER NOT NULL,
    request_id         TEXT    UNIQUE REFERENCES usage_record,
    reference          TEXT,
    reverses           TEXT    REFERENCES ledger_entry,
    reason             TEXT,
    actor              TEXT    NOT NULL,
    recorded_at        TEXT    NOT NULL,
    UNIQUE (workspace_id, seq),
    UNIQUE (shard, leaf_index),
    CHECK (contra <> 'refund' OR reverses IS NOT NULL),
    CHECK (contra NOT IN ('refund', 'adjustment') OR reason IS NOT NULL),
    -- Usage is a debit to revenue that names its request; anything else names the payment or document behind it.
    CHECK (CASE WHEN request_id IS NULL THEN reference IS NOT NULL
                ELSE reference IS NULL AND contra = 'revenue' AND amount_pico < 0 END)
) STRICT;

-- Partial, so that a look-up by (workspace_id, seq) cannot go by this one's first half through all of a workspace.
CREATE UNIQUE INDEX entry_of_reference ON ledger_entry (workspace_id, reference) WHERE reference IS NOT NULL;
CREATE INDEX reversals_of_entry ON ledger_entry (reverses) WHERE reverses IS NOT NULL;

-- The Merkle tree of each shard (RFC 6962): one row for each batch, with the nodes that it completed.
CREATE TABLE checkpoint (
    shard       INTEGER NOT NULL,
    tree_size   INTEGER NOT NULL CHECK (tree_size >= 1),
    root        BLOB    NOT NULL CHECK (length(root) = 32),
    frontier    BLOB    NOT NULL,  -- the roots of the complete subtrees, the largest first
    first_node  INTEGER NOT NULL,  -- the place of the first of `nodes` among all of the tree's
    nodes       BLOB    NOT NULL,  -- leaf by leaf: its hash, then those of the subtrees it closes, upwards
    recorded_at TEXT    NOT NULL,
    PRIMARY KEY (shard, tree_size)
) STRICT;

-- What was signed, word for word as it was published.
CREATE TABLE signed_checkpoint (
    shard       INTEGER NOT NULL,
    tree_size   INTEGER NOT NULL,
    note        TEXT    NOT NULL,
    recorded_at TEXT    NOT NULL,
    PRIMARY KEY (shard, tree_size),
    FOREIGN KEY (shard, tree_size) REFERENCES checkpoint
) STRICT;

-- Every call that an administrator made, written down before it was carried out.
CREATE TABLE admin_log (
    id           TEXT NOT NULL PRIMARY KEY,
    actor        TEXT NOT NULL,
    method       TEXT NOT NULL,
    path         TEXT NOT NULL,
    body         TEXT NOT NULL,  -- without secrets
    workspace_id TEXT,           -- whose, as far as it can be told before the call; it need not exist
    recorded_at  TEXT NOT NULL
) STRICT;
CREATE INDEX admin_log_of_time ON admin_log (recorded_at, id);
CREATE INDEX admin_log_of_workspace ON admin_log (workspace_id, recorded_at, id);

-- Working tables, not the ledger. The digest makes a redelivered message change nothing.
CREATE TABLE conflict (  -- a second, different record of a request: the first one stands, a person decides
    digest      TEXT NOT NULL PRIMARY KEY,
    request_id  TEXT NOT NULL REFERENCES usage_record,
    body        BLOB NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;
CREATE TABLE quarantine (  -- what could not be booked at all, whole, with the reason
    digest      TEXT NOT NULL PRIMARY KEY,
    body        BLOB NOT NULL,
    reason      TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;
-- Which request an Idempotency-Key stands for. The answer is a customer's content, and is deleted after a day.
CREATE TABLE idempotency_key (
    workspace_id TEXT    NOT NULL REFERENCES workspace,
    key_digest   TEXT    NOT NULL,  -- SHA-256 in hex, as is the body's
    body_digest  TEXT    NOT NULL,
    request_id   TEXT    NOT NULL UNIQUE,
    stream       INTEGER NOT NULL CHECK (stream IN (0, 1)),
    answer       BLOB,              -- NULL: it runs, or its answer cannot be given again
    claimed_at   TEXT    NOT NULL,
    PRIMARY KEY (workspace_id, key_digest)
) STRICT;
CREATE INDEX idempotency_key_by_age ON idempotency_key (claimed_at);

-- Credit lent to edges, and what is known of it without reading the books through. Working tables, whose rows change;
-- losing the first two frees what was lent, and the third can be made anew from usage_record.
CREATE TABLE lease (  -- a part of a workspace's credit, or, under a key's id, of what that key may still spend
    lease_id      TEXT    NOT NULL,
    key_id        TEXT    NOT NULL,
    edge          TEXT    NOT NULL,
    workspace_id  TEXT    NOT NULL REFERENCES workspace,
    granted_pico  INTEGER NOT NULL CHECK (granted_pico >= 0),  -- totals since the lease began
    returned_pico INTEGER NOT NULL CHECK (returned_pico >= 0),
    used_pico     INTEGER NOT NULL CHECK (used_pico >= 0),
    closed        INTEGER NOT NULL CHECK (closed IN (0, 1)),
    expires_at    TEXT    NOT NULL,
    PRIMARY KEY (lease_id, key_id)
) STRICT;
CREATE INDEX lease_of_workspace ON lease (workspace_id, key_id);
CREATE INDEX lease_of_key ON lease (key_id);
-- What is on the books of a lease, by key and, as key '', in all; moved by the transaction that books it.
CREATE TABLE lease_booked (
    lease_id  TEXT    NOT NULL,
    key_id    TEXT    NOT NULL,
    cost_pico INTEGER NOT NULL,
    PRIMARY KEY (lease_id, key_id)
) STRICT;
-- What a key spent on a day (UTC), likewise; verify holds it against usage_record.
CREATE TABLE key_spend (
    key_id    TEXT    NOT NULL,
    day       TEXT    NOT NULL,
    cost_pico INTEGER NOT NULL,
    PRIMARY KEY (key_id, day)
) STRICT;

-- Append-only. INSERT OR REPLACE deletes silently unless recursive_triggers is on: every connection turns it on.
CREATE TRIGGER usage_record_no_update BEFORE UPDATE ON usage_record
BEGIN
    SELECT RAISE(ABORT, 'usage_record is append-only: post a correcting entry instead');
END;
CREATE TRIGGER usage_record_no_delete BEFORE DELETE ON usage_record
BEGIN
    SELECT RAISE(ABORT, 'usage_record is append-only: post a correcting entry instead');
END;
CREATE TRIGGER ledger_entry_no_update BEFORE UPDATE ON ledger_entry
BEGIN
    SELECT RAISE(ABORT, 'ledger_entry is append-only: post a correcting entry instead');
END;
CREATE TRIGGER ledger_entry_no_delete BEFORE DELETE ON ledger_entry
BEGIN
    SELECT RAISE(ABORT, 'ledger_entry is append-only: post a correcting entry instead');
END;
CREATE TRIGGER checkpoint_no_update BEFORE UPDATE ON checkpoint
BEGIN
    SELECT RAISE(ABORT, 'checkpoint is append-only: post a correcting entry instead');
END;
CREATE TRIGGER checkpoint_no_delete BEFORE DELETE ON checkpoint
BEGIN
    SELECT RAISE(ABORT, 'checkpoint is append-only: post a correcting entry instead');
END;
CREATE TRIGGER signed_checkpoint_no_update BEFORE UPDATE ON signed_checkpoint
BEGIN
    SELECT RAISE(ABORT, 'signed_checkpoint is append-only: post a correcting entry instead');
END;
CREATE TRIGGER signed_checkpoint_no_delete BEFORE DELETE ON signed_checkpoint
BEGIN
    SELECT RAISE(ABORT, 'signed_checkpoint is append-only: post a correcting entry instead');
END;
CREATE TRIGGER admin_log_no_update BEFORE UPDATE ON admin_log
BEGIN
    SELECT RAISE(ABORT, 'admin_log is append-only: post a correcting entry instead');
END;
CREATE TRIGGER admin_log_no_delete BEFORE DELETE ON admin_log
BEGIN
    SELECT RAISE(ABORT, 'admin_log is append-only: post a correcting entry instead');
END;

-- The insert guard: an entry continues its predecessor without a gap.
CREATE TRIGGER ledger_entry_guard AFTER INSERT ON ledger_entry
WHEN NEW.balance_after_pico - NEW.amount_pico IS NOT CASE NEW.seq WHEN 1 THEN 0 ELSE (
    SELECT balance_after_pico FROM ledger_entry WHERE workspace_id = NEW.workspace_id AND seq = NEW.seq - 1) END
BEGIN
    SELECT RAISE(ABORT, 'ledger_entry does not continue the entry before it');
END;

-- A reversal is in its original's workspace, of the other sign, and all of them together are no more than it.
CREATE TRIGGER ledger_entry_reversal AFTER INSERT ON ledger_entry
WHEN NEW.reverses IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM ledger_entry AS original WHERE original.entry_id = NEW.reverses
    AND original.workspace_id = NEW.workspace_id AND sign(original.amount_pico) <> sign(NEW.amount_pico)
    AND abs(original.amount_pico) >= abs((
        SELECT sum(amount_pico) FROM ledger_entry WHERE reverses = NEW.reverses)))
BEGIN
    SELECT RAISE(ABORT, 'ledger_entry reverses more than there is');
END;

-- A debit is what its record costs.
CREATE TRIGGER ledger_entry_debit AFTER INSERT ON ledger_entry
WHEN NEW.request_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM usage_record WHERE request_id = NEW.request_id
    AND workspace_id = NEW.workspace_id AND cost_pico = -NEW.amount_pico)
BEGIN
    SELECT RAISE(ABORT, 'ledger_entry is not what its usage_record costs');
END;
