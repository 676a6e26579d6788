-- What is forecast, which models were made, why, and how they reach devices. Forward only.

-- Every definition a forecaster ever had; the highest version is in force.
CREATE TABLE forecasters (
    name       text NOT NULL,
    version    bigint NOT NULL,
    spec       jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);

-- Work that survives its worker. A running job whose lease has passed is queued again.
CREATE TABLE jobs (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text NOT NULL,                     -- train
    subject       text NOT NULL,                     -- forecaster
    payload       jsonb NOT NULL,
    status        text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    attempts      integer NOT NULL DEFAULT 0,
    max_attempts  integer NOT NULL DEFAULT 3,
    run_after     timestamptz NOT NULL DEFAULT now(),
    lease_until   timestamptz,
    worker        text,
    cancel        boolean NOT NULL DEFAULT false,
    progress      double precision NOT NULL DEFAULT 0,   -- 0 to 1
    progress_text text NOT NULL DEFAULT '',
    result        jsonb,
    error         text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,
    finished_at   timestamptz
);
CREATE INDEX jobs_queue ON jobs (run_after, id) WHERE status = 'queued';
CREATE INDEX jobs_leases ON jobs (lease_until) WHERE status = 'running';
-- One retraining at a time for a forecaster.
CREATE UNIQUE INDEX jobs_one_live ON jobs (kind, subject) WHERE status IN ('queued', 'running');

CREATE TABLE job_log (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job  bigint NOT NULL REFERENCES jobs(id),
    time timestamptz NOT NULL DEFAULT now(),
    line text NOT NULL
);
CREATE INDEX job_log_by_job ON job_log (job, id);

-- What a training job read, made and concluded; one row a job, completed as it goes.
CREATE TABLE training_runs (
    id              bigint PRIMARY KEY REFERENCES jobs(id),
    forecaster      text NOT NULL,
    spec_version    bigint NOT NULL,
    trigger         text NOT NULL,                   -- drift, person
    reason          text NOT NULL,
    snapshot_at     timestamptz NOT NULL,            -- rows known at this moment were read
    snapshot_sha    bytea,
    snapshot_rows   bigint NOT NULL DEFAULT 0,
    seed            bigint NOT NULL,
    code_version    text NOT NULL,
    scores          jsonb,                           -- each model beside the baselines
    verdict         jsonb,                           -- challenger against champion
    model_version   bigint,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX training_runs_by_forecaster ON training_runs (forecaster, id);

-- Immutable.
CREATE TABLE model_versions (
    forecaster text NOT NULL,
    version    bigint NOT NULL,
    bundle     bytea NOT NULL REFERENCES bundles(sha),
    manifest   jsonb NOT NULL,
    metrics    jsonb NOT NULL,
    lineage    jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (forecaster, version)
);

CREATE TABLE champions (
    forecaster text NOT NULL,
    grp        text NOT NULL DEFAULT 'all',
    version    bigint NOT NULL,
    set_by     text NOT NULL,
    since      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (forecaster, grp),
    FOREIGN KEY (forecaster, version) REFERENCES model_versions (forecaster, version)
);

CREATE TABLE drift_reports (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    forecaster    text NOT NULL,
    model_version bigint NOT NULL,
    onset         timestamptz NOT NULL,
    data_time     timestamptz NOT NULL,              -- newest actual behind the verdict
    confirmed     boolean NOT NULL,
    report        jsonb NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX drift_reports_by_forecaster ON drift_reports (forecaster, id);

-- Why something was done, or was not.
CREATE TABLE decisions (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    forecaster   text NOT NULL,
    decision     text NOT NULL,                      -- retrain, wait, not_confirmed, cool_down, promote, keep ...
    reason       text NOT NULL,
    drift_report bigint REFERENCES drift_reports(id),
    job          bigint REFERENCES jobs(id),
    data_time    timestamptz,
    decided_by   text NOT NULL,
    decided_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX decisions_by_forecaster ON decisions (forecaster, id);

CREATE TABLE rollouts (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    forecaster       text NOT NULL,
    model_version    bigint NOT NULL,
    previous_version bigint,
    status           text NOT NULL,
    reason           text NOT NULL,
    machine          jsonb NOT NULL,                 -- plan, stage and timers; devices are the rows below
    created_by       text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    finished_at      timestamptz,
    FOREIGN KEY (forecaster, model_version) REFERENCES model_versions (forecaster, version)
);
CREATE INDEX rollouts_by_forecaster ON rollouts (forecaster, id);
CREATE INDEX rollouts_open ON rollouts (id) WHERE finished_at IS NULL;

CREATE TABLE deployments (
    rollout    bigint NOT NULL REFERENCES rollouts(id),
    device     text NOT NULL REFERENCES devices(id),
    state      text NOT NULL,
    reason     text NOT NULL,
    generation bigint NOT NULL,
    machine    jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (rollout, device)
);

-- What people ask of a rollout; the hub that drives rollouts carries it out.
CREATE TABLE rollout_commands (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollout    bigint NOT NULL REFERENCES rollouts(id),
    command    text NOT NULL CHECK (command IN ('pause', 'resume', 'approve', 'abort')),
    who        text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    done_at    timestamptz
);
CREATE INDEX rollout_commands_open ON rollout_commands (rollout, id) WHERE done_at IS NULL;
