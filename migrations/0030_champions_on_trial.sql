-- A first model holds the title on trial until a rollout or a named person confirms it. Forward only.

ALTER TABLE champions ADD COLUMN on_trial boolean NOT NULL DEFAULT false;
-- What whole fleets have been given already stays theirs.
UPDATE champions c SET on_trial = true WHERE c.set_by LIKE 'training run %' AND EXISTS (SELECT FROM rollouts r
    WHERE r.forecaster = c.forecaster AND r.model_version = c.version AND r.finished_at IS NULL);
