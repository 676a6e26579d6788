//! Imported readings: owns writing only those that are missing, never where they come from.

use crate::error::{Context as _, Result};
use crate::ledger::Ingest;
use crate::readings::ReadingColumns;

impl Ingest {
    /// Writes the readings whose sensor and time the device has none of yet, the first of equal ones; answers how many.
    ///
    /// # Errors
    /// The database.
    pub async fn insert_missing_readings(
        &mut self,
        device: &str,
        rows: &ReadingColumns,
    ) -> Result<u64> {
        let failed = || format!("import {} readings of device {device}", rows.len());
        // Two imports of one device at a time would each not see what the other writes.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('import ' || $1, 0))")
            .bind(device)
            .execute(&mut *self.tx)
            .await
            .during(failed())?;
        sqlx::query(
            "INSERT INTO readings (sensor, time, value, quality, time_quality)
             SELECT DISTINCT ON (n.sensor, n.time) n.sensor, n.time, n.value, n.quality, n.time_quality
             FROM unnest($1::int4[], $2::timestamptz[], $3::float8[], $4::int2[], $5::int2[])
                  WITH ORDINALITY AS n(sensor, time, value, quality, time_quality, place)
             WHERE NOT EXISTS (SELECT 1 FROM readings r WHERE r.sensor = n.sensor AND r.time = n.time)
             ORDER BY n.sensor, n.time, n.place",
        )
        .bind(&rows.sensors)
        .bind(&rows.times)
        .bind(&rows.values)
        .bind(&rows.qualities)
        .bind(&rows.time_qualities)
        .execute(&mut *self.tx)
        .await
        .map(|done| done.rows_affected())
        .during(failed())
    }
}
