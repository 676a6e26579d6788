-- Feature rows as they were known at each time: a version is added where later readings change a row, none is changed.

DROP TABLE feature_work;
DROP TABLE feature_rows;

-- What of a forecaster's definition makes its rows; another pipeline begins another set.
CREATE TABLE feature_sets (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    forecaster text NOT NULL,
    pipeline   text NOT NULL,                       -- version, period and sensors in the order of the channels
    channels   text[] NOT NULL,
    through    timestamptz NOT NULL,                -- all readings received until then are in the rows
    UNIQUE (forecaster, pipeline)
);

CREATE TABLE feature_devices (
    feature_set integer NOT NULL REFERENCES feature_sets(id) ON DELETE CASCADE,
    device      text NOT NULL,
    since       timestamptz NOT NULL,               -- the rows of before it are not known as of an earlier time
    newest      timestamptz NOT NULL,               -- data time of the newest reading
    PRIMARY KEY (feature_set, device)
);

CREATE TABLE feature_rows (
    feature_set integer NOT NULL REFERENCES feature_sets(id) ON DELETE CASCADE,
    device      text NOT NULL,
    time        timestamptz NOT NULL,
    known_at    timestamptz NOT NULL,               -- made of the readings received until then
    values      double precision[] NOT NULL,        -- in the order of the channels, NaN: missing
    PRIMARY KEY (feature_set, device, time, known_at)
);

-- The rows of each forecaster's present pipeline as they are now.
CREATE VIEW features AS
    SELECT DISTINCT ON (s.forecaster, r.device, r.time)
           s.forecaster, s.channels, r.device, r.time, r.values, r.known_at
      FROM feature_sets s JOIN feature_rows r ON r.feature_set = s.id
     WHERE s.through = (SELECT max(through) FROM feature_sets x WHERE x.forecaster = s.forecaster)
     ORDER BY s.forecaster, r.device, r.time, r.known_at DESC;

-- What came since the rows were made last is found by when it came.
CREATE INDEX readings_by_arrival ON readings USING brin (received_at) WITH (autosummarize = on);
CREATE INDEX json_readings_by_arrival ON json_readings USING brin (received_at) WITH (autosummarize = on);
