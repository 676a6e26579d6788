-- When a forecaster is retrained belongs to its definition, and is no part of what devices are told. Forward only.
ALTER TABLE forecasters ADD COLUMN retraining jsonb NOT NULL DEFAULT '{}';
