-- A bundle that a person gave back is kept for a while, whatever it is needed for. Forward only.

ALTER TABLE bundles ADD COLUMN restored_at timestamptz;
