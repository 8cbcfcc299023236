-- Configurations of bots. Who changes something is said first, in the same transaction (sign).

-- name: fetch_bots
-- Every configuration, by id.
SELECT id, enabled, launch, target, token, token_number, env, settings, uid, config_version, created_at, updated_at
FROM bot_configs
ORDER BY id;

-- name: fetch_bot
-- One configuration.
SELECT id, enabled, launch, target, token, token_number, env, settings, uid, config_version, created_at, updated_at
FROM bot_configs
WHERE id = $1;

-- name: fetch_ids
-- The ids of all bots, for "did you mean".
SELECT id FROM bot_configs ORDER BY id;

-- name: find_token
-- The bot that has this number before the colon of its token.
SELECT id FROM bot_configs WHERE token_number = $1;

-- name: find_uid
-- The bot that runs under this user id.
SELECT id FROM bot_configs WHERE uid = $1;

-- name: sign
-- Says to the audit trigger who acts, through which door, on which host; ends with the transaction.
SELECT set_config('multibot.actor', $1, true), set_config('multibot.door', $2, true),
       set_config('multibot.host', $3, true);

-- name: insert_bot
-- A new bot.
INSERT INTO bot_configs (id, enabled, launch, target, token, env, settings, uid)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
RETURNING id, enabled, launch, target, token, token_number, env, settings, uid, config_version, created_at, updated_at;

-- name: update_bot
-- Changes a bot: NULL leaves a column alone; env ($6, without the keys $7) and settings ($8, without $9) are merged.
UPDATE bot_configs SET
    enabled = coalesce($2, enabled),
    launch = coalesce($3, launch),
    target = coalesce($4, target),
    token = coalesce($5, token),
    env = (env || $6) - $7::text[],
    settings = (settings || $8) - $9::text[],
    uid = coalesce($10, uid)
WHERE id = $1
RETURNING id, enabled, launch, target, token, token_number, env, settings, uid, config_version, created_at, updated_at;

-- name: set_enabled
-- The operator's wish: whether a bot should run.
UPDATE bot_configs SET enabled = $2 WHERE id = $1 RETURNING id;

-- name: delete_bot
-- Removes a bot; its audit rows and its user id stay.
DELETE FROM bot_configs WHERE id = $1 RETURNING id;

-- name: lock_uids
-- One allotment at a time.
LOCK TABLE bot_uids IN EXCLUSIVE MODE;

-- name: allot_uid
-- Takes the lowest user id of a range that no bot ever had; no row when the range is used up.
INSERT INTO bot_uids (uid)
SELECT min(candidate)
FROM (
    SELECT $1::integer AS candidate
    UNION ALL
    SELECT uid + 1 FROM bot_uids WHERE uid >= $1 AND uid < $2
) AS candidates
WHERE NOT EXISTS (SELECT FROM bot_uids WHERE uid = candidate)
HAVING min(candidate) IS NOT NULL
RETURNING uid;
