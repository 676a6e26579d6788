-- What may be forgotten after a time. Forward only.

-- Batches up to this number whose ledger rows are gone: all of them were committed, or never came.
ALTER TABLE epochs ADD COLUMN pruned_through bigint NOT NULL DEFAULT 0;

-- What is deleted by age is found by age.
CREATE INDEX batches_by_age ON batches USING brin (received_at);
CREATE INDEX forecasts_by_age ON forecasts USING brin (received_at);
CREATE INDEX residual_summaries_by_age ON residual_summaries USING brin (received_at);
CREATE INDEX alarms_by_age ON alarms USING brin (received_at);
