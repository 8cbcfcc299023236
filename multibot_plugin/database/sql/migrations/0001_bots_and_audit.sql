-- The configuration of the bots, and the log of who changed what.
--
-- The tables live in the first schema of the role's search_path (public, unless the operator says otherwise).

CREATE TABLE bot_configs (
    id text COLLATE "C" PRIMARY KEY
        CONSTRAINT bot_configs_id CHECK (id ~ '^[a-z0-9][a-z0-9-]{0,38}$'),
    enabled boolean NOT NULL DEFAULT true,
    launch text NOT NULL
        CONSTRAINT bot_configs_launch CHECK (launch IN ('build', 'script', 'command')),
    target text NOT NULL
        CONSTRAINT bot_configs_target CHECK (target <> ''),
    -- The number before the colon is the bot's Telegram id. The exact form of a token is checked by the program.
    token text NOT NULL
        CONSTRAINT bot_configs_token CHECK (token ~ '^[0-9]{3,12}:[^[:space:]]+$'),
    -- The CASE keeps a malformed token out of the error message of a failing cast.
    token_number bigint GENERATED ALWAYS AS (
        CASE WHEN token ~ '^[0-9]{3,12}:' THEN split_part(token, ':', 1)::bigint END
    ) STORED
        CONSTRAINT bot_configs_token_number UNIQUE,
    env jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT bot_configs_env CHECK (jsonb_typeof(env) = 'object'),
    settings jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT bot_configs_settings CHECK (jsonb_typeof(settings) = 'object'),
    uid integer
        CONSTRAINT bot_configs_uid UNIQUE,
    config_version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE bot_configs IS 'one row per bot; every change is recorded in audit_log, also one made by hand';
COMMENT ON COLUMN bot_configs.settings IS 'only what this bot sets itself, see docs/settings.md';
COMMENT ON COLUMN bot_configs.uid IS 'root installs: the user id of this bot alone';

-- Every user id that a bot ever had. Rows stay when the bot goes: files of a deleted bot must not become those of
-- a new one. A table and not a sequence, because the range may be moved.
CREATE TABLE bot_uids (
    uid integer PRIMARY KEY,
    allotted_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE audit_log (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    door text NOT NULL,
    host text NOT NULL DEFAULT '',
    bot_id text COLLATE "C",
    action text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);

CREATE INDEX audit_log_at ON audit_log (at DESC);
CREATE INDEX audit_log_bot ON audit_log (bot_id, at DESC);

COMMENT ON TABLE audit_log IS 'who did what to which bot through which door; append-only, holds no secret';

CREATE FUNCTION audit_log_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_log_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_keep();

-- The last line of defence: whatever looks like a token (also URL-encoded) never gets in, whoever wrote it.
CREATE FUNCTION audit_log_redact() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.detail := regexp_replace(NEW.detail::text, '[0-9]{3,12}(:|%3[Aa])[A-Za-z0-9_-]{30,}', '***', 'g')::jsonb;
    RETURN NEW;
END
$$;

CREATE TRIGGER audit_log_redact BEFORE INSERT ON audit_log
    FOR EACH ROW EXECUTE FUNCTION audit_log_redact();

-- Counts the versions of a configuration; an UPDATE that changes nothing is none.
CREATE FUNCTION bot_configs_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.created_at := OLD.created_at;
    NEW.updated_at := OLD.updated_at;
    NEW.config_version := OLD.config_version;
    IF (NEW.id, NEW.enabled, NEW.launch, NEW.target, NEW.token, NEW.env, NEW.settings, NEW.uid) IS DISTINCT FROM
       (OLD.id, OLD.enabled, OLD.launch, OLD.target, OLD.token, OLD.env, OLD.settings, OLD.uid) THEN
        NEW.updated_at := now();
        NEW.config_version := OLD.config_version + 1;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER bot_configs_version BEFORE UPDATE ON bot_configs
    FOR EACH ROW EXECUTE FUNCTION bot_configs_version();

-- {"key": {"old": ..., "new": ...}} for every key of two flat objects that differs.
CREATE FUNCTION changed_keys(old jsonb, new jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(key, jsonb_build_object('old', old -> key, 'new', new -> key)), '{}')
    FROM (SELECT jsonb_object_keys(old) UNION SELECT jsonb_object_keys(new)) AS keys (key)
    WHERE old -> key IS DISTINCT FROM new -> key
$$;

-- {"KEY": "added" | "changed" | "removed"}: the same without the values, which may be secrets.
CREATE FUNCTION masked_keys(old jsonb, new jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(key, CASE WHEN NOT old ? key THEN 'added'
                                               WHEN NOT new ? key THEN 'removed' ELSE 'changed' END), '{}')
    FROM (SELECT jsonb_object_keys(old) UNION SELECT jsonb_object_keys(new)) AS keys (key)
    WHERE old -> key IS DISTINCT FROM new -> key
$$;

-- What changed between two rows, field by field; token and values of env only by the fact that they changed.
CREATE FUNCTION bot_configs_changes(old bot_configs, new bot_configs) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT changed_keys(to_jsonb(old) - hidden, to_jsonb(new) - hidden)
        || CASE WHEN old.token IS DISTINCT FROM new.token THEN '{"token": "changed"}' ELSE '{}' END::jsonb
        || CASE WHEN old.env IS DISTINCT FROM new.env
                THEN jsonb_build_object('env', masked_keys(old.env, new.env)) ELSE '{}' END
        || CASE WHEN old.settings IS DISTINCT FROM new.settings
                THEN jsonb_build_object('settings', changed_keys(old.settings, new.settings)) ELSE '{}' END
    FROM (SELECT ARRAY['token', 'env', 'settings', 'config_version', 'created_at', 'updated_at']) AS t (hidden)
$$;

-- Records every change of a configuration in the same transaction. The program says who acts with SET LOCAL
-- multibot.actor, multibot.door and multibot.host; a change by hand is recorded under the database's login.
CREATE FUNCTION bot_configs_audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    action text;
    detail jsonb;
    bot text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        bot := NEW.id;
        action := 'bot.created';
        detail := to_jsonb(NEW) - ARRAY['id', 'token', 'env', 'created_at', 'updated_at']
            || jsonb_build_object('env', ARRAY(SELECT jsonb_object_keys(NEW.env)));
    ELSIF TG_OP = 'DELETE' THEN
        bot := OLD.id;
        action := 'bot.deleted';
        detail := to_jsonb(OLD) - ARRAY['id', 'token', 'env', 'created_at', 'updated_at']
            || jsonb_build_object('env', ARRAY(SELECT jsonb_object_keys(OLD.env)));
    ELSE
        IF NEW.config_version = OLD.config_version THEN
            RETURN NULL;
        END IF;
        bot := NEW.id;
        detail := bot_configs_changes(OLD, NEW);
        action := CASE WHEN detail - 'enabled' <> '{}' THEN 'bot.changed'
                       WHEN NEW.enabled THEN 'bot.enabled' ELSE 'bot.disabled' END;
        detail := detail || jsonb_build_object('config_version', NEW.config_version);
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.uid IS NOT NULL THEN
        INSERT INTO bot_uids (uid) VALUES (NEW.uid) ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO audit_log (actor, door, host, bot_id, action, detail) VALUES (
        coalesce(nullif(current_setting('multibot.actor', true), ''), session_user),
        coalesce(nullif(current_setting('multibot.door', true), ''), 'sql'),
        coalesce(nullif(current_setting('multibot.host', true), ''), host(inet_client_addr()), ''),
        bot, action, detail
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER bot_configs_audit AFTER INSERT OR UPDATE OR DELETE ON bot_configs
    FOR EACH ROW EXECUTE FUNCTION bot_configs_audit();

CREATE FUNCTION bot_configs_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE leaves no trace in audit_log: use DELETE' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER bot_configs_keep BEFORE TRUNCATE ON bot_configs
    FOR EACH STATEMENT EXECUTE FUNCTION bot_configs_keep();

-- The functions find our tables, not those of a caller's search_path or its temporary ones.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['audit_log_keep()', 'audit_log_redact()', 'bot_configs_version()',
                                'bot_configs_audit()', 'bot_configs_keep()',
                                'changed_keys(jsonb, jsonb)', 'masked_keys(jsonb, jsonb)',
                                'bot_configs_changes(bot_configs, bot_configs)'] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', name, current_schema());
    END LOOP;
END
$$;
