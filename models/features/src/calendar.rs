//! Calendar features: owns what is known of any future time from time zone and holidays alone, never any measurement.

use std::collections::BTreeSet;
use std::f64::consts::TAU;
use std::ops::Range;

use chrono::{DateTime, Datelike, NaiveDate, Timelike};
use chrono_tz::Tz;

use crate::grid::{MAX_TIME, MIN_TIME, Millis};
use crate::spec::ForecasterSpec;

const DAY_MS: i64 = 86_400_000;
/// Harmonics of the day: six draw both a morning and an evening peak.
const DAY_HARMONICS: usize = 6;
const WEEK_HARMONICS: usize = 3;
const YEAR_HARMONICS: usize = 2;

/// The calendar of one forecaster: its time zone, holidays and grid, ready for use at many times.
///
/// Columns on a grid finer than a day (`n` = harmonics of the day the grid can carry, at most 6):
/// `sin, cos` of the local time of day (2n), working day 0/1, the same harmonics times working day (2n),
/// harmonics of the week (6), harmonics of the year (4). On a grid of a day or more: one column a weekday (7),
/// working day at the grid time, working day half a period before (a daily mean labelled at midnight belongs to the
/// day that ends), harmonics of the year (4). All values lie in [-1, 1].
#[derive(Debug, Clone)]
pub struct Calendar {
    zone: Tz,
    period: Millis,
    holidays: BTreeSet<NaiveDate>,
    day_harmonics: usize,
}

impl Calendar {
    /// The calendar of a forecaster. An unknown time zone (impossible in a validated spec) counts as UTC.
    #[must_use]
    pub fn new(spec: &ForecasterSpec) -> Self {
        let period = spec.period_ms().max(1);
        let carried = usize::try_from(DAY_MS / (2 * period)).unwrap_or(DAY_HARMONICS);
        Self {
            zone: spec.timezone.parse().unwrap_or(Tz::UTC),
            period,
            holidays: spec.holidays.iter().copied().collect(),
            day_harmonics: carried.clamp(1, DAY_HARMONICS),
        }
    }

    fn daily_grid(&self) -> bool {
        self.period >= DAY_MS
    }

    /// Number of columns (K).
    #[must_use]
    pub fn width(&self) -> usize {
        self.year_columns().end
    }

    /// Columns that tell the days of the week apart: to be left out of a fit on less than two weeks.
    #[must_use]
    pub fn week_columns(&self) -> Range<usize> {
        if self.daily_grid() {
            return 0..9;
        }
        let start = 4 * self.day_harmonics + 1;
        start..start + 2 * WEEK_HARMONICS
    }

    /// Columns that tell the seasons of the year apart: to be left out of a fit on less than a year.
    #[must_use]
    pub fn year_columns(&self) -> Range<usize> {
        let start = self.week_columns().end;
        start..start + 2 * YEAR_HARMONICS
    }

    /// Whether the local day is Monday to Friday and no holiday.
    #[must_use]
    pub fn is_working_day(&self, day: NaiveDate) -> bool {
        day.weekday().num_days_from_monday() < 5 && !self.holidays.contains(&day)
    }

    fn local(&self, time: Millis) -> DateTime<Tz> {
        let clamped = time.clamp(MIN_TIME + DAY_MS, MAX_TIME - DAY_MS);
        DateTime::from_timestamp_millis(clamped)
            .unwrap_or_default()
            .with_timezone(&self.zone)
    }

    /// Appends the columns of a grid time to `out`. The wall clock counts: on the day the clocks change, 08:00 is
    /// 08:00. Times outside the years 1 to 9999 count as the nearest inside.
    pub fn append(&self, time: Millis, out: &mut Vec<f64>) {
        let local = self.local(time);
        let day = local.date_naive();
        let day_part = f64::from(local.num_seconds_from_midnight()) / 86_400.0;
        let working = f64::from(u8::from(self.is_working_day(day)));
        let weekday = day.weekday().num_days_from_monday();
        if self.daily_grid() {
            out.extend((0..7).map(|d| f64::from(u8::from(d == weekday))));
            out.push(working);
            let interior = self
                .local(time.saturating_sub(self.period / 2))
                .date_naive();
            out.push(f64::from(u8::from(self.is_working_day(interior))));
        } else {
            let start = out.len();
            harmonics(day_part, self.day_harmonics, out);
            let end = out.len();
            out.push(working);
            for i in start..end {
                out.push(out[i] * working);
            }
            harmonics((f64::from(weekday) + day_part) / 7.0, WEEK_HARMONICS, out);
        }
        let year_days = if day.leap_year() { 366.0 } else { 365.0 };
        harmonics(
            (f64::from(day.ordinal0()) + day_part) / year_days,
            YEAR_HARMONICS,
            out,
        );
    }

    /// The columns of one grid time ([`Self::width`] values).
    #[must_use]
    pub fn features(&self, time: Millis) -> Vec<f64> {
        let mut out = Vec::with_capacity(self.width());
        self.append(time, &mut out);
        out
    }

    /// Start of the local day a time lies in, in UTC; where midnight does not exist, the first moment after it.
    #[must_use]
    pub fn local_midnight(&self, time: Millis) -> Millis {
        let day = self.local(time).date_naive();
        let mut earliest = None;
        for minutes in (0..=180).step_by(30) {
            let wall = day.and_time(chrono::NaiveTime::MIN) + chrono::TimeDelta::minutes(minutes);
            if let Some(at) = wall.and_local_timezone(self.zone).earliest() {
                earliest = Some(at.timestamp_millis());
                break;
            }
        }
        earliest.unwrap_or_else(|| time.div_euclid(DAY_MS) * DAY_MS)
    }
}

fn harmonics(part: f64, count: usize, out: &mut Vec<f64>) {
    for k in 1..=u32::try_from(count).unwrap_or(0) {
        let (sin, cos) = (TAU * f64::from(k) * part).sin_cos();
        out.push(sin);
        out.push(cos);
    }
}

/// Number of known-future columns of a forecaster (K).
#[must_use]
pub fn width(spec: &ForecasterSpec) -> usize {
    Calendar::new(spec).width()
}

/// Known-future columns of one grid time ([`width`] values). For many times, keep a [`Calendar`].
#[must_use]
pub fn future_features(spec: &ForecasterSpec, time: Millis) -> Vec<f64> {
    Calendar::new(spec).features(time)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]
mod tests {
    use super::*;
    use crate::spec::tests::spec;

    fn at(text: &str) -> Millis {
        DateTime::parse_from_rfc3339(text)
            .unwrap()
            .timestamp_millis()
    }

    fn berlin(period: &str) -> ForecasterSpec {
        let mut s = spec(period, &["a"], "a");
        s.timezone = "Europe/Berlin".into();
        s.holidays = vec![NaiveDate::from_ymd_opt(2026, 5, 1).unwrap()];
        s
    }

    #[test]
    fn wall_clock_counts_across_the_change_of_clocks() {
        let s = berlin("1h");
        let day = 0..12;
        let before = future_features(&s, at("2026-03-27T07:00:00Z"));
        let after = future_features(&s, at("2026-03-30T06:00:00Z"));
        assert_eq!(
            before[day.clone()],
            after[day.clone()],
            "both are 08:00 in Berlin"
        );
        let same_utc = future_features(&s, at("2026-03-30T07:00:00Z"));
        assert_ne!(before[day.clone()], same_utc[day]);
    }

    #[test]
    fn a_holiday_is_no_working_day_by_local_date() {
        let cal = Calendar::new(&berlin("1h"));
        let working = 12;
        assert_eq!(cal.features(at("2026-04-30T21:59:00Z"))[working], 1.0);
        assert_eq!(
            cal.features(at("2026-04-30T22:00:00Z"))[working],
            0.0,
            "1 May has begun in Berlin"
        );
        assert_eq!(
            cal.features(at("2026-05-02T10:00:00Z"))[working],
            0.0,
            "Saturday"
        );
        assert_eq!(cal.features(at("2026-05-04T10:00:00Z"))[working], 1.0);
        assert_eq!(
            cal.local_midnight(at("2026-04-30T23:00:00Z")),
            at("2026-04-30T22:00:00Z")
        );
    }

    #[test]
    fn every_width_is_kept_and_every_value_bounded() {
        for period in ["1s", "15m", "1h", "6h", "8h", "12h", "1d", "7d"] {
            let cal = Calendar::new(&berlin(period));
            for time in [Millis::MIN, -1, 0, at("2024-12-31T23:59:59Z"), Millis::MAX] {
                let f = cal.features(time);
                assert_eq!(f.len(), cal.width(), "{period}");
                assert!(f.iter().all(|v| v.abs() <= 1.0));
            }
        }
    }

    #[test]
    fn a_midnight_that_does_not_exist_is_the_first_moment_of_the_day() {
        let mut s = spec("1h", &["a"], "a");
        s.timezone = "America/Santiago".into();
        let cal = Calendar::new(&s);
        assert_eq!(
            cal.local_midnight(at("2025-09-07T12:00:00Z")),
            at("2025-09-07T04:00:00Z")
        );
    }
}
