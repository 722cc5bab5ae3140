-- Takes the ledger out of everybody's reach but the writer's, for a deployment. Run by a superuser after each migration
-- (only a superuser makes event triggers); running it again changes nothing. Without it the service still runs, as a
-- plain owner of its database, behind the triggers of the schema alone.

-- Roles belong to the whole server. None of them logs in: GRANT billing_writer TO <the service's login>, and so on.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['ledger_owner', 'billing_writer', 'ledger_auditor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
END $$;

-- Everything belongs to a role that nobody is; what is granted to all is taken back.
DO $$
DECLARE
    object record;
BEGIN
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO ledger_owner', current_schema());
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO billing_writer, ledger_auditor', current_schema());
    FOR object IN SELECT oid::regclass AS name, relowner <> 'ledger_owner'::regrole AS foreign_owned FROM pg_class
                  WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') LOOP
        IF object.foreign_owned THEN  -- it takes a lock that no reader of the table leaves room for
            EXECUTE format('ALTER TABLE %s OWNER TO ledger_owner', object.name);
        END IF;
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, billing_writer, ledger_auditor', object.name);
    END LOOP;
    FOR object IN SELECT oid::regprocedure AS name FROM pg_proc
                  WHERE pronamespace = current_schema()::regnamespace AND proname IN (
                      'refuse_change', 'make_append_only', 'make_partitions', 'first_id_of', 'guard_entries') LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO ledger_owner', object.name);
        EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', object.name);
    END LOOP;
END $$;

GRANT SELECT ON alembic_version, workspace, api_key, usage_record, ledger_entry, checkpoint, signed_checkpoint,
    admin_log, conflict, quarantine TO billing_writer, ledger_auditor;
GRANT INSERT ON workspace, api_key, usage_record, ledger_entry, checkpoint, signed_checkpoint,
    admin_log, conflict, quarantine TO billing_writer;
GRANT UPDATE (name, strict) ON workspace TO billing_writer;
GRANT UPDATE (label, expires_at, revoked_at, spend_limit_pico, limit_reset, requests_per_minute, tokens_per_minute)
    ON api_key TO billing_writer;
GRANT SELECT ON lease, lease_booked, key_spend TO billing_writer, ledger_auditor;
GRANT INSERT, UPDATE ON lease, lease_booked, key_spend TO billing_writer;
GRANT DELETE ON lease, lease_booked TO billing_writer;
GRANT EXECUTE ON FUNCTION make_partitions(integer) TO billing_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_key TO billing_writer;  -- to no auditor: it holds answers

-- Into the books only by the writer: the owner of a table needs no grant, so this is said by a trigger.
CREATE OR REPLACE FUNCTION refuse_others() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_has_role(current_user, 'billing_writer', 'MEMBER') THEN
        RAISE EXCEPTION '% takes rows from billing_writer alone', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END $$;
ALTER FUNCTION refuse_others() OWNER TO ledger_owner;
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['usage_record', 'ledger_entry', 'checkpoint', 'signed_checkpoint', 'admin_log'] LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER writer_only BEFORE INSERT ON %I'
                       ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_others()', name);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER writer_only', name);
    END LOOP;
END $$;

-- The schema changes only where a migration says that it is one: then nobody drops a table or a trigger by mistake, or
-- without meaning to. Two events, because ddl_command_end does not see what DROP took away. Temporary tables are free.
CREATE OR REPLACE FUNCTION refuse_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('opentoken.migration', true) IS NOT DISTINCT FROM 'on' THEN
        RETURN;
    END IF;
    IF TG_EVENT = 'sql_drop' THEN
        IF NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary) THEN
            RETURN;
        END IF;
    ELSIF NOT EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE schema_name IS DISTINCT FROM 'pg_temp') THEN
        RETURN;
    END IF;
    RAISE EXCEPTION '% is refused: the schema changes only in a migration', TG_TAG USING ERRCODE = 'insufficient_privilege';
END $$;
DROP EVENT TRIGGER IF EXISTS ledger_ddl;
DROP EVENT TRIGGER IF EXISTS ledger_drop;
CREATE EVENT TRIGGER ledger_ddl ON ddl_command_end EXECUTE FUNCTION refuse_ddl();
CREATE EVENT TRIGGER ledger_drop ON sql_drop EXECUTE FUNCTION refuse_ddl();
ALTER EVENT TRIGGER ledger_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER ledger_drop ENABLE ALWAYS;
