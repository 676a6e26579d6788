-- The seasonal naive forecast's error is unknown (NULL) where none of a summary's steps had one; it was stored as 0.
ALTER TABLE residual_summaries ALTER COLUMN naive_mean_abs_error DROP NOT NULL;
