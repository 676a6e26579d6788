-- What devices say of their inputs is a drift report too: it warns, and asks for nothing. Forward only.
ALTER TABLE drift_reports ADD COLUMN kind text NOT NULL DEFAULT 'concept';  -- concept, covariate
ALTER TABLE drift_reports ADD COLUMN signal bigint UNIQUE;                  -- the drift signal that a covariate report tells of
CREATE INDEX drift_signals_of_inputs ON drift_signals (device, forecaster, sensor, detector, id)
    WHERE kind = 'covariate';
