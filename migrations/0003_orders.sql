-- What orders and feature rows need. Forward only.

-- Orders are given under one lock a forecaster, which asks for the highest generation first.
CREATE INDEX desired_by_generation ON desired (forecaster, generation);

-- Rows are computed when they are read. A hub of before may still run beside: a later file drops the tables.
COMMENT ON TABLE feature_rows IS 'no longer written or read';
COMMENT ON TABLE feature_work IS 'no longer written or read';
