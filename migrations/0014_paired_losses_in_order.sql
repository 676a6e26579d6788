-- Evidence is read in the order in which it came, and only when there is more of it. Forward only.
CREATE INDEX paired_losses_in_order ON paired_losses (forecaster, watching_version, running_version, id);
DROP INDEX paired_losses_by_pair;
