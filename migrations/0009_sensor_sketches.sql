-- What sensors' readings of a span were, as devices tell it: merged, they are the fleet's. Forward only.
CREATE TABLE sensor_sketches (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device      text NOT NULL,
    sensor      text NOT NULL,
    from_time   timestamptz NOT NULL,                -- exclusive
    to_time     timestamptz NOT NULL,
    count       bigint NOT NULL,                     -- good readings behind it
    left_out    bigint NOT NULL,                     -- suspect and bad ones
    mean        double precision NOT NULL,
    squares     double precision NOT NULL,           -- sum of squared distances from the mean
    kll         bytea NOT NULL,                      -- quantiles, compact form of Apache DataSketches
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sensor_sketches_by_sensor ON sensor_sketches (sensor, to_time);
