-- What cannot be taken as rows is kept as bytes; what ties a boot's clock to true time. Forward only.

-- Payloads that cannot be read or written: acknowledged where they name a batch, so that the stream goes on.
CREATE TABLE quarantined (
    device      text NOT NULL REFERENCES devices(id),
    digest      bytea NOT NULL,                     -- SHA-256 of the bytes
    epoch       uuid,                               -- null: not even a header
    number      bigint,
    reason      text NOT NULL,
    bytes       bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device, digest)
);

-- When a boot began by the hub's clock, as clock facts of that boot measured it.
CREATE TABLE anchors (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device       text NOT NULL REFERENCES devices(id),
    boot_id      text NOT NULL,
    monotonic_ms bigint NOT NULL,                   -- when in that boot it was measured
    boot_at_ms   bigint NOT NULL,                   -- true time at monotonic zero
    error_ms     bigint NOT NULL
);
CREATE INDEX anchors_by_boot ON anchors (device, boot_id);

-- Batches with readings whose time nobody vouches for yet; gone when their boot is anchored.
CREATE TABLE unanchored (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device       text NOT NULL REFERENCES devices(id),
    boot_id      text NOT NULL,
    monotonic_ms bigint NOT NULL,                   -- the batch's clocks at sealing
    wall_ms      bigint NOT NULL
);
CREATE INDEX unanchored_by_boot ON unanchored (device, boot_id);

ALTER TABLE readings ADD COLUMN device_time timestamptz;  -- what the device's clock said, where `time` is corrected
ALTER TABLE readings ADD COLUMN unanchored bigint;        -- the row above, while time_quality is 0
CREATE INDEX readings_unanchored ON readings (unanchored) WHERE unanchored IS NOT NULL;
