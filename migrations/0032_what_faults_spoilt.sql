-- Readings that a sensor's fault had spoilt before it was found stay as they were known to the device, and are not learnt from. Forward only.

-- The values without them, where that makes a difference.
ALTER TABLE feature_rows ADD COLUMN learnt double precision[];

CREATE INDEX drift_signals_of_sensors ON drift_signals (device, sensor, time) WHERE kind = 'sensor';
