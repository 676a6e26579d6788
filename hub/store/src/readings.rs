//! Tables `readings` and `json_readings`: owns reading values and writing JSON ones, never their meaning.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use fieldcast_features::Millis;

use crate::Store;
use crate::error::{Context as _, Result};
use crate::time::{millis, timestamp};

/// Readings as columns, all of one length.
#[derive(Debug, Clone, Default)]
pub struct ReadingColumns {
    /// Sensor numbers.
    pub sensors: Vec<i32>,
    /// Data times.
    pub times: Vec<DateTime<Utc>>,
    /// Values.
    pub values: Vec<f64>,
    /// 0 good, 1 suspect, 2 bad.
    pub qualities: Vec<i16>,
    /// 0 unknown, 1 synchronised, 2 the data's own time.
    pub time_qualities: Vec<i16>,
    /// What the device's clock said, where the data time is corrected.
    pub device_times: Vec<Option<DateTime<Utc>>>,
    /// The row of `unanchored` that each waits for, where its time is unknown.
    pub unanchored: Vec<Option<i64>>,
}

impl ReadingColumns {
    /// Appends one reading.
    pub fn push(&mut self, sensor: i32, time: Millis, value: f64, quality: i16, time_quality: i16) {
        self.sensors.push(sensor);
        self.times.push(timestamp(time));
        self.values.push(value);
        self.qualities.push(quality);
        self.time_qualities.push(time_quality);
        self.device_times.push(None);
        self.unanchored.push(None);
    }

    /// Appends the rows of another one.
    pub fn append(&mut self, other: &Self) {
        self.sensors.extend_from_slice(&other.sensors);
        self.times.extend_from_slice(&other.times);
        self.values.extend_from_slice(&other.values);
        self.qualities.extend_from_slice(&other.qualities);
        self.time_qualities.extend_from_slice(&other.time_qualities);
        self.device_times.extend_from_slice(&other.device_times);
        self.unanchored.extend_from_slice(&other.unanchored);
    }

    /// Says what the device's clock said of the reading appended last.
    pub fn corrected_from(&mut self, device_time: Millis) {
        if let Some(last) = self.device_times.last_mut() {
            *last = Some(timestamp(device_time));
        }
    }

    /// Lets those of unknown time wait for a row of `unanchored`.
    pub fn wait_for(&mut self, row: i64) {
        for (waits, quality) in self.unanchored.iter_mut().zip(&self.time_qualities) {
            *waits = (*quality == 0).then_some(row);
        }
    }

    /// Whether nobody vouches for the time of any of them.
    #[must_use]
    pub fn any_unknown_time(&self) -> bool {
        self.time_qualities.contains(&0)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sensors.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sensors.is_empty()
    }
}

/// A stored reading.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredReading {
    /// Sensor name.
    pub sensor: String,
    /// Data time.
    pub time: Millis,
    /// Value.
    pub value: f64,
    /// 0 good, 1 suspect, 2 bad.
    pub quality: u8,
    /// 0 unknown, 1 synchronised, 2 the data's own time.
    pub time_quality: u8,
}

impl Store {
    /// Readings of some sensors of a device with `from < time <= to`, by time.
    ///
    /// # Errors
    /// The database.
    pub async fn readings_between(
        &self,
        device: &str,
        sensors: &[String],
        from: Millis,
        to: Millis,
    ) -> Result<Vec<StoredReading>> {
        self.readings_known(device, sensors, (from, to), None, None)
            .await
    }

    /// As [`Self::readings_between`], of those received until `known`, the first `most` of them.
    ///
    /// # Errors
    /// The database.
    pub async fn readings_known(
        &self,
        device: &str,
        sensors: &[String],
        (from, to): (Millis, Millis),
        known: Option<DateTime<Utc>>,
        most: Option<usize>,
    ) -> Result<Vec<StoredReading>> {
        let rows: Vec<(String, DateTime<Utc>, f64, i16, i16)> = sqlx::query_as(
            "SELECT s.name, r.time, r.value, r.quality, r.time_quality
             FROM sensors s JOIN readings r ON r.sensor = s.id
             WHERE s.device = $1 AND s.name = ANY($2) AND r.time > $3 AND r.time <= $4
               AND ($5::timestamptz IS NULL OR r.received_at <= $5)
             UNION ALL
             SELECT s.name, j.time, j.value, j.quality, 2::int2
             FROM sensors s JOIN json_readings j ON j.sensor = s.id
             WHERE s.device = $1 AND s.name = ANY($2) AND j.time > $3 AND j.time <= $4
               AND ($5::timestamptz IS NULL OR j.received_at <= $5)
             ORDER BY 2, 1 LIMIT $6",
        )
        .bind(device)
        .bind(sensors)
        .bind(timestamp(from))
        .bind(timestamp(to))
        .bind(known)
        .bind(most.and_then(|n| i64::try_from(n).ok()))
        .fetch_all(self.pool())
        .await
        .during(format!("read readings of device {device}"))?;
        Ok(rows
            .into_iter()
            .map(
                |(sensor, time, value, quality, time_quality)| StoredReading {
                    sensor,
                    time: millis(time),
                    value,
                    quality: u8::try_from(quality).unwrap_or(2),
                    time_quality: u8::try_from(time_quality).unwrap_or(0),
                },
            )
            .collect())
    }

    /// Data time of the first reading of some sensors of a device with `after < time <= to`.
    ///
    /// # Errors
    /// The database.
    pub async fn next_reading(
        &self,
        device: &str,
        sensors: &[String],
        (after, to): (Millis, Millis),
    ) -> Result<Option<Millis>> {
        let next: Option<DateTime<Utc>> = sqlx::query_scalar(
            "SELECT min(least(r.next, j.next)) FROM sensors s
             CROSS JOIN LATERAL (SELECT min(time) AS next FROM readings WHERE sensor = s.id AND time > $3 AND time <= $4) r
             CROSS JOIN LATERAL (SELECT min(time) AS next FROM json_readings WHERE sensor = s.id AND time > $3 AND time <= $4) j
             WHERE s.device = $1 AND s.name = ANY($2)",
        )
        .bind(device)
        .bind(sensors)
        .bind(timestamp(after))
        .bind(timestamp(to))
        .fetch_one(self.pool())
        .await
        .during(format!("find the next reading of device {device}"))?;
        Ok(next.map(millis))
    }

    /// First and last data time of a device's sensors; none where there is no reading.
    ///
    /// # Errors
    /// The database.
    pub async fn reading_span(
        &self,
        device: &str,
        sensors: &[String],
    ) -> Result<Option<(Millis, Millis)>> {
        let (from, to): (Option<DateTime<Utc>>, Option<DateTime<Utc>>) = sqlx::query_as(
            "SELECT min(least(r.first, j.first)), max(greatest(r.last, j.last)) FROM sensors s
             CROSS JOIN LATERAL (SELECT min(time) AS first, max(time) AS last FROM readings WHERE sensor = s.id) r
             CROSS JOIN LATERAL (SELECT min(time) AS first, max(time) AS last FROM json_readings WHERE sensor = s.id) j
             WHERE s.device = $1 AND s.name = ANY($2)",
        )
        .bind(device)
        .bind(sensors)
        .fetch_one(self.pool())
        .await
        .during(format!("find the span of readings of device {device}"))?;
        Ok(from.zip(to).map(|(from, to)| (millis(from), millis(to))))
    }

    /// When each device's newest usable reading of some sensors was: one that is not bad, whose time somebody vouches for,
    /// and that does not lie more than a day ahead of the database's clock. Devices without any are left out.
    ///
    /// # Errors
    /// The database.
    pub async fn newest_by_device(
        &self,
        devices: &[String],
        sensors: &[String],
    ) -> Result<Vec<(String, Millis)>> {
        let rows: Vec<(String, Option<DateTime<Utc>>)> = sqlx::query_as(
            "SELECT s.device, max(greatest(
                (SELECT max(time) FROM readings WHERE sensor = s.id AND quality < 2 AND time_quality > 0
                    AND time <= now() + interval '1 day'),
                (SELECT max(time) FROM json_readings WHERE sensor = s.id AND quality < 2 AND time <= now() + interval '1 day')))
             FROM sensors s WHERE s.device = ANY($1) AND s.name = ANY($2) GROUP BY s.device",
        )
        .bind(devices)
        .bind(sensors)
        .fetch_all(self.pool())
        .await
        .during("find the newest readings of devices")?;
        let known = rows.into_iter().filter_map(|(d, t)| Some((d, millis(t?))));
        Ok(known.collect())
    }

    /// What JSON readings of sensors and times say.
    ///
    /// # Errors
    /// The database.
    pub async fn json_values(
        &self,
        keys: &[(i32, Millis)],
    ) -> Result<BTreeMap<(i32, Millis), f64>> {
        let sensors: Vec<i32> = keys.iter().map(|(sensor, _)| *sensor).collect();
        let times: Vec<DateTime<Utc>> = keys.iter().map(|(_, time)| timestamp(*time)).collect();
        let rows: Vec<(i32, DateTime<Utc>, f64)> = sqlx::query_as(
            "SELECT j.sensor, j.time, j.value FROM unnest($1::int4[], $2::timestamptz[]) AS k(sensor, time)
             JOIN json_readings j USING (sensor, time)",
        )
        .bind(sensors)
        .bind(times)
        .fetch_all(self.pool())
        .await
        .during("read JSON readings")?;
        let keyed = rows
            .into_iter()
            .map(|(sensor, time, value)| ((sensor, millis(time)), value));
        Ok(keyed.collect())
    }

    /// Readings of things that run no agent; one that is there already (same sensor, same time) stays as it is.
    /// Returns the new ones: sensor number, time, value.
    ///
    /// # Errors
    /// The database.
    pub async fn insert_json_readings(
        &self,
        device: &str,
        rows: &ReadingColumns,
    ) -> Result<Vec<(i32, Millis, f64)>> {
        let failed = || format!("insert JSON readings of device {device}");
        let mut tx = self.pool().begin().await.during(failed())?;
        let new: Vec<(i32, DateTime<Utc>, f64)> = sqlx::query_as(
            "INSERT INTO json_readings (sensor, time, value, quality)
             SELECT * FROM unnest($1::int4[], $2::timestamptz[], $3::float8[], $4::int2[])
             ON CONFLICT DO NOTHING RETURNING sensor, time, value",
        )
        .bind(&rows.sensors)
        .bind(&rows.times)
        .bind(&rows.values)
        .bind(&rows.qualities)
        .fetch_all(&mut *tx)
        .await
        .during(failed())?;
        tx.commit().await.during(failed())?;
        let with_millis =
            |(sensor, time, value): (i32, DateTime<Utc>, f64)| (sensor, millis(time), value);
        Ok(new.into_iter().map(with_millis).collect())
    }
}
