//! Monthly partitions of `readings`: owns their names and creation, never what is in them.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike as _, NaiveDate, NaiveTime, Utc};
use fieldcast_features::Millis;

use crate::Store;
use crate::error::{Context as _, Result};
use crate::time::timestamp;

/// A calendar month, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Month {
    year: i32,
    month: u32,
}

impl Month {
    /// The month of a time; none where a fixed partition holds it (before 2000, from 2100).
    #[must_use]
    pub fn of(time: Millis) -> Option<Self> {
        let time: DateTime<Utc> = timestamp(time);
        (2000..2100).contains(&time.year()).then(|| Self {
            year: time.year(),
            month: time.month(),
        })
    }

    /// The month of a partition's name, such as `2026_01`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (year, month) = name.split_once('_')?;
        let month = Self {
            year: year.parse().ok()?,
            month: month.parse().ok()?,
        };
        month.start().map(|_| month)
    }

    /// Whether all of it lies before a time.
    pub(crate) fn ended_by(self, time: DateTime<Utc>) -> bool {
        let end = self.next().start();
        end.is_some_and(|end| end <= time.date_naive())
    }

    /// Its first moment.
    pub(crate) fn begin(self) -> Option<DateTime<Utc>> {
        Some(self.start()?.and_time(NaiveTime::MIN).and_utc())
    }

    fn start(self) -> Option<NaiveDate> {
        NaiveDate::from_ymd_opt(self.year, self.month, 1)
    }

    fn next(self) -> Self {
        if self.month == 12 {
            Self {
                year: self.year + 1,
                month: 1,
            }
        } else {
            Self {
                year: self.year,
                month: self.month + 1,
            }
        }
    }
}

impl Store {
    /// Creates the partitions of these months where they are missing.
    ///
    /// # Errors
    /// The database.
    pub async fn ensure_months(&self, months: &BTreeSet<Month>) -> Result<()> {
        if months.is_empty() {
            return Ok(());
        }
        let failed = || "create partitions of readings".to_owned();
        let mut tx = self.pool().begin().await.during(failed())?;
        // Two hubs that create the same month would fail one of them.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext('fieldcast partitions'))")
            .execute(&mut *tx)
            .await
            .during(failed())?;
        for month in months {
            let (Some(from), Some(to)) = (month.start(), month.next().start()) else {
                continue;
            };
            let sql = format!(
                "CREATE TABLE IF NOT EXISTS readings_{:04}_{:02} PARTITION OF readings
                 FOR VALUES FROM ('{from} 00:00:00+00') TO ('{to} 00:00:00+00')",
                month.year, month.month
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
                .execute(&mut *tx)
                .await
                .during(failed())?;
        }
        tx.commit().await.during(failed())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn months_follow_the_calendar() {
        let december = Month::of(1_798_675_200_000).unwrap();
        assert_eq!(december.start().unwrap().to_string(), "2026-12-01");
        assert_eq!(december.next().start().unwrap().to_string(), "2027-01-01");
        assert_eq!(Month::parse("2026_12"), Some(december));
        assert_eq!(Month::parse("late"), None);
        assert_eq!(Month::parse("2026_13"), None);
        let newyear = timestamp(1_798_761_600_000);
        assert!(december.ended_by(newyear) && !december.next().ended_by(newyear));
        assert_eq!(Month::of(-1), None, "1969 is in the early partition");
        assert_eq!(Month::of(i64::MAX), None);
    }
}
