-- What an interrupted training has learnt, so that its job's next attempt goes on from there. Forward only.
ALTER TABLE training_runs ADD COLUMN checkpoint bytea;
