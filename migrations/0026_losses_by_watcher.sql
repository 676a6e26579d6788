-- Devices that gave the champion up compare a challenger with what they run instead: evidence is read by what watches. Forward only.

CREATE INDEX paired_losses_by_watcher ON paired_losses (forecaster, watching_version, id);
DROP INDEX paired_losses_in_order;
