-- How new models reach devices belongs to a forecaster's definition, and is no part of what devices are told. Forward only.
ALTER TABLE forecasters ADD COLUMN rollout jsonb NOT NULL DEFAULT '{}';
