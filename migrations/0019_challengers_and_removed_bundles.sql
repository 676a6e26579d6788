-- The version that may take the champion's place, and bundles that nobody can come to run any more. Forward only.

-- Moved only by a rollout's beginning and end, or by a named person; beside `champions`.
CREATE TABLE challengers (
    forecaster text NOT NULL,
    grp        text NOT NULL DEFAULT 'all',
    version    bigint NOT NULL,
    set_by     text NOT NULL,
    since      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (forecaster, grp),
    FOREIGN KEY (forecaster, version) REFERENCES model_versions (forecaster, version)
);
INSERT INTO challengers (forecaster, version, set_by)
    SELECT DISTINCT ON (r.forecaster) r.forecaster, r.model_version, 'rollout ' || r.id FROM rollouts r
    WHERE r.finished_at IS NULL AND NOT EXISTS (SELECT FROM champions c
        WHERE c.forecaster = r.forecaster AND c.version = r.model_version)
    ORDER BY r.forecaster, r.id DESC;

-- A removed bundle keeps its row, without bytes: versions, their lineage and what was rolled out stay readable.
ALTER TABLE bundles ADD COLUMN size bigint, ADD COLUMN removed_at timestamptz;
