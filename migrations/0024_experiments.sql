-- Two versions on randomised devices for a stated time. Forward only.

CREATE TABLE experiments (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    forecaster   text NOT NULL,
    version_a    bigint NOT NULL,
    version_b    bigint NOT NULL,
    share_b      double precision NOT NULL,
    labels       jsonb NOT NULL,                    -- of the devices that may join, those of the selector among them
    sensor       text,                              -- whose mean is the outcome; null: errors of forecasts
    days         integer NOT NULL,
    settle_hours integer NOT NULL,                  -- after a device joined, not measured
    foreseen     jsonb NOT NULL,                    -- what the number of devices could show, as told at the start
    status       text NOT NULL DEFAULT 'planned',
    reason       text NOT NULL DEFAULT '',
    report       jsonb,                             -- made once, at the end
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    started_at   timestamptz,                       -- the first device joined
    ends_at      timestamptz,                       -- what is measured ends here
    stop_by      text,                              -- a person asks for the end
    stop_reason  text,
    finished_at  timestamptz,
    FOREIGN KEY (forecaster, version_a) REFERENCES model_versions (forecaster, version),
    FOREIGN KEY (forecaster, version_b) REFERENCES model_versions (forecaster, version)
);
CREATE INDEX experiments_by_forecaster ON experiments (forecaster, id);
-- One at a time holds the devices of a forecaster.
CREATE UNIQUE INDEX experiments_holding ON experiments (forecaster) WHERE status IN ('planned', 'running');

CREATE TABLE experiment_devices (
    experiment bigint NOT NULL REFERENCES experiments(id),
    device     text NOT NULL REFERENCES devices(id),
    arm        text NOT NULL CHECK (arm IN ('a', 'b')),
    generation bigint NOT NULL,                     -- of the order of its arm's version
    state      text NOT NULL,
    reason     text NOT NULL DEFAULT '',
    joined_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (experiment, device)
);
CREATE INDEX experiment_devices_by_device ON experiment_devices (device);
