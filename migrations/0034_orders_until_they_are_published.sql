-- Which orders are still to be published: whoever drives publishes them, also those of a hub that died between COMMIT and PUBLISH. Forward only.

-- What stands already was published by the hub that gave it.
ALTER TABLE desired ADD COLUMN published boolean NOT NULL DEFAULT true;
ALTER TABLE desired ALTER COLUMN published SET DEFAULT false;
CREATE INDEX desired_unpublished ON desired (device) WHERE NOT published;
