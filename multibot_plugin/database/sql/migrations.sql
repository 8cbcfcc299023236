-- The record of which migrations were applied.

-- name: lock_migrations
-- One runner at a time, until the end of the transaction; the number is the program's own ("multibot" in ASCII).
SELECT pg_advisory_xact_lock(7887329569649356660);

-- name: create_migrations
-- The record itself, before the first migration.
CREATE TABLE IF NOT EXISTS multibot_migrations (
    number integer PRIMARY KEY,
    title text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: has_migrations
-- Whether the record is there.
SELECT to_regclass('multibot_migrations') IS NOT NULL;

-- name: fetch_migrations
-- What was applied, in order.
SELECT number, title, sha256 FROM multibot_migrations ORDER BY number;

-- name: insert_migration
-- One more was applied.
INSERT INTO multibot_migrations (number, title, sha256) VALUES ($1, $2, $3);
