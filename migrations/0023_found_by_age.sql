-- What is deleted by age is found by age, and what had no age gets one. Forward only.

CREATE INDEX paired_losses_by_age ON paired_losses USING brin (received_at);
CREATE INDEX sensor_sketches_by_age ON sensor_sketches USING brin (received_at);
CREATE INDEX drift_signals_by_age ON drift_signals USING brin (received_at);
CREATE INDEX outcomes_by_age ON outcomes USING brin (received_at);
CREATE INDEX quarantined_by_age ON quarantined USING brin (received_at);
CREATE INDEX json_readings_by_time ON json_readings USING brin (time);

-- A boot that is never anchored, and anchors of boots that are long over.
ALTER TABLE anchors ADD COLUMN received_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE unanchored ADD COLUMN received_at timestamptz NOT NULL DEFAULT now();
