-- Devices, what they sent, and what they are ordered to run. Forward only; a later file expands or contracts.

-- Facts about this database itself: `nonce` changes when a backup is restored.
CREATE TABLE hub_meta (
    key   text PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE devices (
    id            text PRIMARY KEY,
    labels        jsonb NOT NULL DEFAULT '{}',
    token_hash    bytea,                            -- SHA-256 of the MQTT password; null: may not connect
    max_sensors   integer NOT NULL DEFAULT 256,     -- how many sensors may register themselves
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_seen     timestamptz,
    session       bigint NOT NULL DEFAULT 0,        -- highest session number seen
    online        boolean NOT NULL DEFAULT false,
    agent_version text NOT NULL DEFAULT ''
);

CREATE TABLE sensors (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device     text NOT NULL REFERENCES devices(id),
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (device, name)
);

-- One row a buffer file; `through` is the watermark of the ledger below.
CREATE TABLE epochs (
    device     text NOT NULL REFERENCES devices(id),
    epoch      uuid NOT NULL,
    through    bigint NOT NULL DEFAULT 0,           -- every batch up to this one is committed, or gone for good
    spent      text,                                -- why the device must begin a new epoch
    first_seen timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device, epoch)
);

-- The ledger: a batch is here exactly when its rows are in the tables below.
CREATE TABLE batches (
    device       text NOT NULL,
    epoch        uuid NOT NULL,
    number       bigint NOT NULL,
    digest       bytea NOT NULL,
    first_seq    bigint NOT NULL,
    last_seq     bigint NOT NULL,
    boot_id      text NOT NULL,
    monotonic_ms bigint NOT NULL,
    rejected     jsonb NOT NULL DEFAULT '[]',       -- [{"seq": 7, "reason": "..."}]
    received_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device, epoch, number),
    FOREIGN KEY (device, epoch) REFERENCES epochs(device, epoch)
);

-- The ledger makes each batch exactly-once, so readings need no unique key of their own.
CREATE TABLE readings (
    sensor       integer NOT NULL,
    time         timestamptz NOT NULL,
    value        double precision NOT NULL,
    quality      smallint NOT NULL,                 -- 0 good, 1 suspect, 2 bad
    time_quality smallint NOT NULL,                 -- 0 unknown, 1 synchronised, 2 the data's own time
    received_at  timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (time);
CREATE INDEX readings_sensor_time ON readings (sensor, time);
-- Months between these two are created when the first reading of a month arrives.
CREATE TABLE readings_early PARTITION OF readings FOR VALUES FROM (MINVALUE) TO ('2000-01-01 00:00:00+00');
CREATE TABLE readings_late PARTITION OF readings FOR VALUES FROM ('2100-01-01 00:00:00+00') TO (MAXVALUE);

-- Readings of things that run no agent: no batches, so (sensor, time) is what makes them idempotent.
CREATE TABLE json_readings (
    sensor      integer NOT NULL REFERENCES sensors(id),
    time        timestamptz NOT NULL,
    value       double precision NOT NULL,
    quality     smallint NOT NULL DEFAULT 0,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sensor, time)
);

-- Every reading, whichever way it came.
CREATE VIEW device_readings AS
    SELECT s.device, s.name AS sensor, r.time, r.value, r.quality, r.time_quality, r.received_at
      FROM readings r JOIN sensors s ON s.id = r.sensor
    UNION ALL
    SELECT s.device, s.name, j.time, j.value, j.quality, 2::smallint, j.received_at
      FROM json_readings j JOIN sensors s ON s.id = j.sensor;

CREATE TABLE forecasts (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device        text NOT NULL,
    forecaster    text NOT NULL,
    origin        timestamptz NOT NULL,
    period_ms     bigint NOT NULL,
    mean          double precision[] NOT NULL,
    levels        double precision[] NOT NULL,
    quantiles     double precision[] NOT NULL,      -- step-major
    made_by       text NOT NULL,
    bundle        bytea NOT NULL,
    model_version bigint NOT NULL,
    shadow        boolean NOT NULL,
    received_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX forecasts_by_origin ON forecasts (device, forecaster, origin);

CREATE TABLE residual_summaries (
    id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device               text NOT NULL,
    forecaster           text NOT NULL,
    bundle               bytea NOT NULL,
    model_version        bigint NOT NULL,
    made_by              text NOT NULL,
    shadow               boolean NOT NULL,
    from_time            timestamptz NOT NULL,
    to_time              timestamptz NOT NULL,
    count                bigint NOT NULL,
    mean_error           double precision NOT NULL,
    mean_abs_error       double precision NOT NULL,
    mean_squared_error   double precision NOT NULL,
    naive_mean_abs_error double precision NOT NULL,
    covered              bigint NOT NULL,
    received_at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX residual_summaries_by_time ON residual_summaries (device, forecaster, to_time);

CREATE TABLE gaps (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device      text NOT NULL,
    kind        text NOT NULL,
    epoch       uuid,
    first_seq   bigint NOT NULL,
    last_seq    bigint NOT NULL,
    from_time   timestamptz,
    to_time     timestamptz,
    reason      text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX gaps_by_device ON gaps (device, id);

CREATE TABLE drift_signals (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device        text NOT NULL,
    kind          text NOT NULL,                    -- covariate, concept, sensor
    forecaster    text NOT NULL,
    sensor        text NOT NULL,
    detector      text NOT NULL,
    statistic     double precision NOT NULL,
    threshold     double precision NOT NULL,
    severity      double precision NOT NULL,
    time          timestamptz NOT NULL,
    onset         timestamptz NOT NULL,
    raised        boolean NOT NULL,
    model_version bigint NOT NULL,
    data_count    bigint NOT NULL,
    received_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX drift_signals_by_forecaster ON drift_signals (forecaster, id);

CREATE TABLE alarms (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device      text NOT NULL,
    source      text NOT NULL,                      -- device or hub
    code        text NOT NULL,
    sensor      text NOT NULL,
    time        timestamptz NOT NULL,
    message     text NOT NULL,
    raised      boolean NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX alarms_by_device ON alarms (device, id);

CREATE TABLE clock_facts (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device       text NOT NULL,
    boot_id      text NOT NULL,
    offset_ms    bigint NOT NULL,
    error_ms     bigint NOT NULL,
    synchronised boolean NOT NULL,
    received_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE outcomes (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device      text NOT NULL,
    subject     text NOT NULL,                      -- command id, or order/<forecaster>/<generation>/<attempt>
    ok          boolean NOT NULL,
    message     text NOT NULL,
    time        timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX outcomes_by_device ON outcomes (device, id);

-- What runs where: the newest state of each device; a pair (boot, n) not above the stored one is ignored.
CREATE TABLE device_states (
    device      text PRIMARY KEY REFERENCES devices(id),
    boot        bigint NOT NULL,
    n           bigint NOT NULL,
    state       jsonb NOT NULL,
    raw         bytea NOT NULL,                     -- the protobuf message as it came
    received_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE bundles (
    sha        bytea PRIMARY KEY,
    bytes      bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
-- Not compressed, so that one block can be read without reading the whole.
ALTER TABLE bundles ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- The newest signed order for each device and forecaster; what the broker retains is only a copy.
CREATE TABLE desired (
    device        text NOT NULL REFERENCES devices(id),
    forecaster    text NOT NULL,
    bundle        bytea NOT NULL,
    model_version bigint NOT NULL,
    stage         text NOT NULL,                    -- shadow or active
    generation    bigint NOT NULL,
    attempt       integer NOT NULL,
    expires_at    timestamptz NOT NULL,
    signed        bytea NOT NULL,                   -- pb.Signed with the pb.Order
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device, forecaster)
);

CREATE TABLE feature_rows (
    device           text NOT NULL,
    forecaster       text NOT NULL,
    time             timestamptz NOT NULL,
    values           double precision[] NOT NULL,   -- in the order of the spec's channels; NaN: missing
    pipeline_version integer NOT NULL,
    known_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device, forecaster, time)
);

-- Spans of data time whose feature rows must be computed again; written with the readings.
CREATE TABLE feature_work (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device     text NOT NULL,
    forecaster text,                                -- null: every forecaster that selects the device
    from_time  timestamptz NOT NULL,
    to_time    timestamptz NOT NULL
);
