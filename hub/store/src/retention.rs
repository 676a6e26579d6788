//! Forgetting by age: owns the SQL that drops and deletes, never how old is old.

use chrono::{DateTime, Utc};

use crate::Store;
use crate::error::{Context as _, Result};
use crate::partitions::Month;
use crate::sensor_faults::SPOILT;
use crate::time::millis;

/// Rows deleted in one statement: short enough to be in nobody's way.
const CHUNK: i64 = 10_000;
/// How long a partition's removal may wait for readers before it is left for the next time.
const LOCK: &str = "SET LOCAL lock_timeout = '3s'";

/// Tables of what devices tell that is neither reading nor gap, and who may be asked for less of it.
const RECORDS: [&str; 10] = [
    "forecasts",
    "residual_summaries",
    "paired_losses",
    "sensor_sketches",
    "alarms",
    "outcomes",
    "clock_facts",
    "anchors",
    "unanchored",
    "quarantined",
];

impl Store {
    /// Removes the months of readings that ended before a time, and JSON readings before it; answers the removed months.
    ///
    /// # Errors
    /// The database, or a month that is in use for longer than a few seconds.
    pub async fn forget_readings(&self, before: DateTime<Utc>) -> Result<Vec<String>> {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'readings'::regclass ORDER BY 1",
        )
        .fetch_all(self.pool())
        .await
        .during("list the partitions of readings")?;
        let mut removed = Vec::new();
        for name in names {
            let month = name.strip_prefix("readings_").and_then(Month::parse);
            if !month.is_some_and(|month| month.ended_by(before)) {
                continue;
            }
            let failed = || format!("remove the partition {name}");
            let mut tx = self.pool().begin().await.during(failed())?;
            sqlx::raw_sql(LOCK)
                .execute(&mut *tx)
                .await
                .during(failed())?;
            // The name was parsed as year and month, so nothing else can be in it.
            let sql = sqlx::AssertSqlSafe(format!("DROP TABLE IF EXISTS {name}"));
            sqlx::raw_sql(sql)
                .execute(&mut *tx)
                .await
                .during(failed())?;
            tx.commit().await.during(failed())?;
            removed.push(name);
        }
        // Clocks that never knew the time: what is before 2000 goes by its row, what is after 2100 by when it came.
        self.delete("readings_early", "time", before).await?;
        self.delete("readings_late", "received_at", before).await?;
        self.delete("json_readings", "time", before).await?;
        if let Some(month) = Month::of(millis(before)).and_then(Month::begin) {
            // Readings go by whole months.
            let spoilt = format!("{SPOILT} AND time");
            self.delete("drift_signals", &spoilt, month).await?;
            self.forget_feature_rows(month).await?;
        }
        Ok(removed)
    }

    /// Deletes what devices told before a time, readings and gaps apart; answers how many rows.
    ///
    /// # Errors
    /// The database.
    pub async fn forget_records(&self, before: DateTime<Utc>) -> Result<u64> {
        let mut deleted = 0;
        for table in RECORDS {
            deleted += self.delete(table, "received_at", before).await?;
        }
        // Which readings faults spoilt is known for as long as the readings.
        let others = format!("NOT ({SPOILT}) AND received_at");
        Ok(deleted + self.delete("drift_signals", &others, before).await?)
    }

    async fn delete(
        &self,
        table: &'static str,
        column: &str,
        before: DateTime<Utc>,
    ) -> Result<u64> {
        let sql = format!(
            "DELETE FROM {table} WHERE ctid = ANY(ARRAY(
                SELECT ctid FROM {table} WHERE {column} < $1 LIMIT {CHUNK}))"
        );
        let mut deleted = 0;
        loop {
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql.as_str()))
                .bind(before)
                .execute(self.pool())
                .await
                .during(format!("delete old rows of {table}"))?
                .rows_affected();
            deleted += rows;
            if rows < u64::try_from(CHUNK).unwrap_or(u64::MAX) {
                return Ok(deleted);
            }
        }
    }
}
