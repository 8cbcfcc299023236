-- The audit log. Changes of a configuration are written by a trigger of bot_configs; this is for everything else.

-- name: append_audit
-- Records an act that was journalled first; a row that is already there (same id) stays as it is.
INSERT INTO audit_log (id, at, actor, door, host, bot_id, action, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (id) DO NOTHING;

-- name: read_audit
-- The newest rows first, of one bot or ($1 NULL) of all.
SELECT id, at, actor, door, host, bot_id, action, detail
FROM audit_log
WHERE $1::text IS NULL OR bot_id = $1
ORDER BY at DESC, id
LIMIT $2;
