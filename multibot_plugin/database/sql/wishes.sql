-- Wishes from the journal: what operators wanted while the database did not hear it.

-- name: weigh_wish
-- Whether a wish ($1) is in the audit log already, and whether a later change made directly ($4: door of replayed
-- ones) has overtaken it.
SELECT EXISTS (SELECT FROM audit_log WHERE id = $1) AS known,
       EXISTS (
           SELECT FROM audit_log
           WHERE bot_id = $2 AND at > $3 AND door NOT LIKE '%' || $4
             AND (action IN ('bot.created', 'bot.enabled', 'bot.disabled') OR action = 'bot.changed' AND detail ? 'enabled')
       ) AS overtaken;
