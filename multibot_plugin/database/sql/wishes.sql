-- Wishes from the journal: what operators wanted while the database did not hear it.

-- name: has_wish
-- Whether a wish was brought in before (a crash came between that and the removal of its file).
SELECT EXISTS (SELECT FROM audit_log WHERE id = $1);
