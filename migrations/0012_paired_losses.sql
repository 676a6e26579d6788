-- How a running and a watching model did on the same windows of a device, block by block. Forward only.
CREATE TABLE paired_losses (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device            text NOT NULL,
    forecaster        text NOT NULL,
    running           bytea NOT NULL,                -- SHA-256 of the bundle in charge; empty: a baseline of the device
    watching          bytea NOT NULL,                -- SHA-256 of the bundle in shadow
    running_version   bigint NOT NULL,
    watching_version  bigint NOT NULL,
    from_time         timestamptz NOT NULL,          -- first origin
    to_time           timestamptz NOT NULL,          -- exclusive
    origins           bigint NOT NULL,               -- pairs of forecasts
    steps             bigint NOT NULL,               -- pairs of steps whose actual value came
    running_abs       double precision NOT NULL,     -- mean absolute errors, in the target's unit
    watching_abs      double precision NOT NULL,
    running_quantile  double precision NOT NULL,     -- mean quantile losses
    watching_quantile double precision NOT NULL,
    received_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX paired_losses_by_pair ON paired_losses (forecaster, watching_version, running_version, from_time);
