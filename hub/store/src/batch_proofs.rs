//! Table `batch_proofs`: owns what is left of ledger rows that are forgotten by age, never how old is old.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::Store;
use crate::error::{Context as _, Result};

/// Folds whole blocks of 64 numbers, at most 128 at once. A block is written again only for a hole that a writer filled while
/// it was folded; what it has stays. What lies behind a number that
/// came later than those after it waits for that one. Numbers near the end of what fits are no honest device's, and are left.
const FOLD: &str = "
    WITH bounds AS (
        SELECT old.number / 64 * 64 AS start,
               least(least(least(e.through, 9000000000000000000) + 1, young.number) / 64 * 64, old.number / 64 * 64 + 64 * 128) AS stop
        FROM epochs e
        CROSS JOIN LATERAL (SELECT number FROM batches WHERE device = e.device AND epoch = e.epoch
            ORDER BY number LIMIT 1) old
        LEFT JOIN LATERAL (SELECT number FROM batches WHERE device = e.device AND epoch = e.epoch
            AND received_at >= $3 ORDER BY number LIMIT 1) young ON true
        WHERE e.device = $1 AND e.epoch = $2 AND old.number < 9000000000000000000),
    gone AS (
        DELETE FROM batches b USING bounds
        WHERE b.device = $1 AND b.epoch = $2 AND b.number >= start AND b.number < stop
        RETURNING b.number, b.digest),
    kept AS (
        INSERT INTO batch_proofs (device, epoch, block, proofs)
        SELECT $1, $2, n / 64, string_agg(coalesce(substr(g.digest, 1, 16), decode(repeat('00', 16), 'hex')), '' ORDER BY n)
        FROM bounds CROSS JOIN generate_series(start, stop - 1) n LEFT JOIN gone g ON g.number = n
        GROUP BY n / 64 HAVING count(g.number) > 0
        ON CONFLICT (device, epoch, block) DO UPDATE SET proofs = (
            SELECT string_agg(CASE substr(batch_proofs.proofs, i * 16 + 1, 16) WHEN decode(repeat('00', 16), 'hex')
                THEN substr(excluded.proofs, i * 16 + 1, 16) ELSE substr(batch_proofs.proofs, i * 16 + 1, 16) END, '' ORDER BY i)
            FROM generate_series(0, 63) i)),
    marked AS (
        UPDATE epochs e SET pruned_through = greatest(e.pruned_through, stop - 1) FROM bounds
        WHERE e.device = $1 AND e.epoch = $2 AND stop > start)
    SELECT count(*) FROM gone";

impl Store {
    /// Deletes ledger rows that came before a time and lie below their epoch's watermark, but for what proves their bytes.
    /// Answers how many. One epoch at a time: whoever writes batches meanwhile waits for none but its own, and one that cannot be
    /// folded keeps none of the others.
    ///
    /// # Errors
    /// The database: of the first epoch that could not be folded.
    pub async fn forget_batches(&self, before: DateTime<Utc>) -> Result<u64> {
        let epochs: Vec<(String, Uuid)> = sqlx::query_as(
            "SELECT e.device, e.epoch FROM epochs e
             CROSS JOIN LATERAL (SELECT number, received_at FROM batches
                 WHERE device = e.device AND epoch = e.epoch ORDER BY number LIMIT 1) old
             WHERE old.received_at < $1 AND old.number <= e.through",
        )
        .bind(before)
        .fetch_all(self.pool())
        .await
        .during("look for old batches of the ledger")?;
        let (mut deleted, mut failed) = (0, None);
        for (device, epoch) in epochs {
            loop {
                let gone: Result<i64> = sqlx::query_scalar(FOLD)
                    .bind(&device)
                    .bind(epoch)
                    .bind(before)
                    .fetch_one(self.pool())
                    .await
                    .during(format!("forget old batches of device {device}"));
                match gone {
                    Ok(0) => break,
                    Ok(gone) => deleted += u64::try_from(gone).unwrap_or(0),
                    Err(error) if error.is_transient() => return Err(error),
                    Err(error) => {
                        failed.get_or_insert(error);
                        break;
                    }
                }
            }
        }
        failed.map_or(Ok(deleted), Err)
    }
}
