//! Tables `feature_sets`, `feature_devices` and `feature_rows`: owns rows as they were known at each time, never how one is made.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use fieldcast_features::{FeatureRow, Millis};
use sqlx::AssertSqlSafe;

use crate::Store;
use crate::connect::UNHURRIED;
use crate::error::{Context as _, Result};
use crate::locks::Held;
use crate::time::{millis, timestamp};

/// Rows entered in one statement.
const CHUNK: usize = 2_000;

/// The rows that one definition of a forecaster makes.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct FeatureSet {
    /// Its number.
    pub id: i32,
    /// All readings received until then are in the rows.
    pub through: DateTime<Utc>,
}

/// How far a device's rows are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureDevice {
    /// Device.
    pub device: String,
    /// The rows as of an earlier time are not known.
    pub since: DateTime<Utc>,
    /// Data time of its newest reading.
    pub newest: Millis,
}

/// A row as devices have it, and as it is learnt from.
#[derive(Debug, Clone)]
pub struct KeptRow {
    /// Of all readings that are not bad.
    pub row: FeatureRow,
    /// The values without readings that faults of sensors spoilt, where these are others.
    pub learnt: Option<Vec<f64>>,
}

impl KeptRow {
    /// The row that is learnt from.
    #[must_use]
    pub fn learnt(self) -> FeatureRow {
        match self.learnt {
            Some(values) => FeatureRow { values, ..self.row },
            None => self.row,
        }
    }

    /// Whether both are the same, bit for bit.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        fn learnt(kept: &KeptRow) -> impl Iterator<Item = u64> + '_ {
            let values = kept.learnt.as_ref().unwrap_or(&kept.row.values);
            values.iter().map(|v| v.to_bits())
        }
        self.row.bits().eq(other.row.bits()) && learnt(self).eq(learnt(other))
    }
}

/// What came from a sensor of a day, data time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// Device.
    pub device: String,
    /// Earliest data time.
    pub from: Millis,
    /// Latest data time.
    pub to: Millis,
    /// Latest one that is not more than a day ahead of the database's clock.
    pub newest: Option<Millis>,
}

impl Store {
    /// The lock under which a forecaster's rows are made; none while somebody else holds it.
    ///
    /// # Errors
    /// The database.
    pub async fn try_lock_features(&self, forecaster: &str) -> Result<Option<Held>> {
        self.try_hold(&format!("fieldcast features {forecaster}"))
            .await
    }

    /// The set of a forecaster's pipeline; made, with nothing received before `now` in it, where there is none.
    ///
    /// # Errors
    /// The database.
    pub async fn feature_set(
        &self,
        forecaster: &str,
        pipeline: &str,
        channels: &[String],
        now: DateTime<Utc>,
    ) -> Result<FeatureSet> {
        sqlx::query_as(
            "INSERT INTO feature_sets (forecaster, pipeline, channels, through) VALUES ($1, $2, $3, $4)
             ON CONFLICT (forecaster, pipeline) DO UPDATE SET channels = EXCLUDED.channels RETURNING id, through",
        )
        .bind(forecaster)
        .bind(pipeline)
        .bind(channels)
        .bind(now)
        .fetch_one(self.pool())
        .await
        .during(format!("find the feature rows of {forecaster}"))
    }

    /// The set of a forecaster's pipeline, where there is one.
    ///
    /// # Errors
    /// The database.
    pub async fn known_feature_set(
        &self,
        forecaster: &str,
        pipeline: &str,
    ) -> Result<Option<FeatureSet>> {
        sqlx::query_as(
            "SELECT id, through FROM feature_sets WHERE forecaster = $1 AND pipeline = $2",
        )
        .bind(forecaster)
        .bind(pipeline)
        .fetch_optional(self.pool())
        .await
        .during(format!("find the feature rows of {forecaster}"))
    }

    /// Removes a forecaster's sets of pipelines that nobody has gone on with since `before`.
    ///
    /// # Errors
    /// The database; what is left is removed the next time.
    pub async fn forget_feature_sets(&self, forecaster: &str, before: DateTime<Utc>) -> Result<()> {
        let failed = || format!("remove old feature rows of {forecaster}");
        // Without its name first, so that nobody reads one half of which is gone.
        sqlx::query(
            "UPDATE feature_sets SET pipeline = 'gone ' || id
             WHERE forecaster = $1 AND through < $2 AND pipeline NOT LIKE 'gone %'",
        )
        .bind(forecaster)
        .bind(before)
        .execute(self.pool())
        .await
        .during(failed())?;
        let gone: Vec<i32> = sqlx::query_scalar(
            "SELECT id FROM feature_sets WHERE forecaster = $1 AND pipeline LIKE 'gone %'",
        )
        .bind(forecaster)
        .fetch_all(self.pool())
        .await
        .during(failed())?;
        for set in gone {
            self.forget_feature_rows_of(set, DateTime::<Utc>::MAX_UTC)
                .await?;
            sqlx::query("DELETE FROM feature_sets WHERE id = $1")
                .bind(set)
                .execute(self.pool())
                .await
                .during(failed())?;
        }
        Ok(())
    }

    /// Removes all rows of before a data time.
    ///
    /// # Errors
    /// The database; what is left is removed the next time.
    pub async fn forget_feature_rows(&self, before: DateTime<Utc>) -> Result<()> {
        let sets: Vec<i32> = sqlx::query_scalar("SELECT id FROM feature_sets")
            .fetch_all(self.pool())
            .await
            .during("list the sets of feature rows")?;
        for set in sets {
            self.forget_feature_rows_of(set, before).await?;
        }
        Ok(())
    }

    /// Device by device: by the primary key, and in short transactions.
    async fn forget_feature_rows_of(&self, set: i32, before: DateTime<Utc>) -> Result<()> {
        let before = before.min(timestamp(Millis::MAX));
        for device in self.feature_devices(set).await? {
            sqlx::query(
                "DELETE FROM feature_rows WHERE feature_set = $1 AND device = $2 AND time < $3",
            )
            .bind(set)
            .bind(&device.device)
            .bind(before)
            .execute(self.pool())
            .await
            .during(format!(
                "remove old feature rows of device {}",
                device.device
            ))?;
        }
        Ok(())
    }

    /// The devices whose rows are in a set.
    ///
    /// # Errors
    /// The database.
    pub async fn feature_devices(&self, set: i32) -> Result<Vec<FeatureDevice>> {
        let rows: Vec<(String, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(
            "SELECT device, since, newest FROM feature_devices WHERE feature_set = $1",
        )
        .bind(set)
        .fetch_all(self.pool())
        .await
        .during("list the devices of feature rows")?;
        Ok(rows
            .into_iter()
            .map(|(device, since, newest)| FeatureDevice {
                device,
                since,
                newest: millis(newest),
            })
            .collect())
    }

    /// What some sensors of some devices measured that was received in `(after, until]`, and what was told then of readings that
    /// faults had spoilt, by device; readings whose time nobody vouches for are left out.
    ///
    /// # Errors
    /// The database.
    pub async fn arrived(
        &self,
        devices: &[String],
        sensors: &[String],
        (after, until): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Vec<Arrived>> {
        let failed = "find what came since feature rows were made";
        let of: Vec<(i32, String)> = sqlx::query_as(
            "SELECT id, device FROM sensors WHERE device = ANY($1) AND name = ANY($2)",
        )
        .bind(devices)
        .bind(sensors)
        .fetch_all(self.pool())
        .await
        .during(failed)?;
        let of: HashMap<i32, String> = of.into_iter().collect();
        // Joined here: the newest rows are in no statistics, and the planner would take them for few.
        type Row = (i32, DateTime<Utc>, DateTime<Utc>, Option<DateTime<Utc>>);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT sensor, min(time), max(time), max(time) FILTER (WHERE time <= now() + interval '1 day')
             FROM (SELECT sensor, time FROM readings WHERE received_at > $1 AND received_at <= $2 AND time_quality > 0
                   UNION ALL
                   SELECT sensor, time FROM json_readings WHERE received_at > $1 AND received_at <= $2) came
             GROUP BY sensor, date_trunc('day', time, 'UTC')",
        )
        .bind(after)
        .bind(until)
        .fetch_all(self.pool())
        .await
        .during(failed)?;
        let mut arrived: Vec<Arrived> = rows
            .into_iter()
            .filter_map(|(sensor, from, to, newest)| {
                Some(Arrived {
                    device: of.get(&sensor)?.clone(),
                    from: millis(from),
                    to: millis(to),
                    newest: newest.map(millis),
                })
            })
            .collect();
        arrived.extend(self.faults_told(devices, sensors, (after, until)).await?);
        arrived.sort_unstable_by(|a, b| (&a.device, a.from).cmp(&(&b.device, b.from)));
        Ok(arrived)
    }

    /// A device's rows with times in `(from, to]` as they were known at a time, by time.
    ///
    /// # Errors
    /// The database.
    pub async fn feature_rows(
        &self,
        set: i32,
        device: &str,
        (from, to): (Millis, Millis),
        known: DateTime<Utc>,
    ) -> Result<Vec<KeptRow>> {
        type Row = (DateTime<Utc>, Vec<f64>, Option<Vec<f64>>);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT DISTINCT ON (time) time, values, learnt FROM feature_rows
             WHERE feature_set = $1 AND device = $2 AND time > $3 AND time <= $4 AND known_at <= $5
             ORDER BY time, known_at DESC",
        )
        .bind(set)
        .bind(device)
        .bind(timestamp(from))
        .bind(timestamp(to))
        .bind(known)
        .fetch_all(self.pool())
        .await
        .during(format!("read feature rows of device {device}"))?;
        Ok(rows
            .into_iter()
            .map(|(time, values, learnt)| KeptRow {
                row: FeatureRow {
                    time: millis(time),
                    values,
                },
                learnt,
            })
            .collect())
    }

    /// Adds rows as they are known at a time; those that are there already stay. On disk at the latest when
    /// [`Self::advance_features`] is.
    ///
    /// # Errors
    /// The database; some of them may be in then.
    pub async fn insert_feature_rows(
        &self,
        set: i32,
        device: &str,
        known: DateTime<Utc>,
        rows: &[KeptRow],
    ) -> Result<()> {
        for rows in rows.chunks(CHUNK) {
            let times: Vec<DateTime<Utc>> = rows.iter().map(|r| timestamp(r.row.time)).collect();
            let flat = |values: fn(&KeptRow) -> &[f64]| -> Vec<f64> {
                rows.iter()
                    .flat_map(|r| values(r).iter().copied())
                    .collect()
            };
            let channels = rows.first().map_or(0, |r| r.row.values.len());
            let spoilt: Vec<bool> = rows.iter().map(|r| r.learnt.is_some()).collect();
            let sql = format!(
                "INSERT INTO feature_rows (feature_set, device, time, known_at, values, learnt)
                 SELECT $1, $2, t.time, $3, ($5::float8[])[(t.i - 1) * $6 + 1 : t.i * $6],
                     CASE WHEN t.spoilt THEN ($8::float8[])[(t.i - 1) * $6 + 1 : t.i * $6] END
                 FROM unnest($4::timestamptz[], $7::bool[]) WITH ORDINALITY AS t (time, spoilt, i), {UNHURRIED} ON CONFLICT DO NOTHING"
            );
            sqlx::query(AssertSqlSafe(sql))
                .bind(set)
                .bind(device)
                .bind(known)
                .bind(times)
                .bind(flat(|r| &r.row.values))
                .bind(i64::try_from(channels).unwrap_or(0))
                .bind(spoilt)
                .bind(flat(|r| r.learnt.as_ref().unwrap_or(&r.row.values)))
                .execute(self.pool())
                .await
                .during(format!("store feature rows of device {device}"))?;
        }
        Ok(())
    }

    /// Says that devices' rows are made up to what was received until `since`, with the data time of each one's newest reading;
    /// where rows were made before, only that.
    ///
    /// # Errors
    /// The database.
    pub async fn made_features(
        &self,
        set: i32,
        since: DateTime<Utc>,
        made: &[(String, Millis)],
    ) -> Result<()> {
        let devices: Vec<&str> = made.iter().map(|(device, _)| device.as_str()).collect();
        let newest: Vec<DateTime<Utc>> = made.iter().map(|(_, n)| timestamp(*n)).collect();
        sqlx::query(
            "INSERT INTO feature_devices (feature_set, device, since, newest)
             SELECT $1, m.device, $2, m.newest FROM unnest($3::text[], $4::timestamptz[]) AS m (device, newest)
             ON CONFLICT (feature_set, device) DO UPDATE SET newest = greatest(feature_devices.newest, EXCLUDED.newest)",
        )
        .bind(set)
        .bind(since)
        .bind(devices)
        .bind(newest)
        .execute(self.pool())
        .await
        .during("note whose feature rows are made")
        .map(drop)
    }

    /// Says that all rows of a set are made up to what was received until a time.
    ///
    /// # Errors
    /// The database.
    pub async fn advance_features(&self, set: i32, through: DateTime<Utc>) -> Result<()> {
        sqlx::query("UPDATE feature_sets SET through = $2 WHERE id = $1 AND through <= $2")
            .bind(set)
            .bind(through)
            .execute(self.pool())
            .await
            .during("note how far feature rows are made")
            .map(drop)
    }
}
