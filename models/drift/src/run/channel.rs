//! A channel's rows over a fleet: owns how they become one reference and when a device's alarm begins and ends, never a sum.
//!
//! Devices differ in scale, and a year has seasons: rows are taken in deviations of their own device's days, less what the
//! season makes of the day. A day of a season that was never seen is not judged.

use serde::{Deserialize, Serialize};

use super::{RunMonitor, RunOptions, RunReference};
use crate::days::{DAY_MS, DayReference, DayScale, day_of};
use crate::inputs::InputEvent;

/// Name of the detector.
pub const DETECTOR: &str = "cusum_rows";
/// Undrifted days from one false alarm of a device to the next.
const DAYS: f64 = 30.0;
/// Newest rows that are learnt from, a device.
const MOST_ROWS: usize = 8_760;
/// Most devices that are learnt from.
const MOST_DEVICES: usize = 4;
/// Most rows of a season that is a week; beyond it is a day.
const WEEK_ROWS: i64 = 168;
/// Most rows of a season that is a day.
const DAY_ROWS: i64 = 1_440;
/// Weeks that a reference must hold for the hours of the week.
const WEEKS: i64 = 8;
/// For so long an alarm is held back: what breaks a sensor shifts its rows as well, and which of the two it is shows within two days.
const HOLD_MS: i64 = 2 * DAY_MS;
/// What is at fault up to so long before an alarm's onset explains it: the end of a fault is a shift too.
pub const BEFORE_MS: i64 = DAY_MS / 2;
/// What was held for longer than this is not told any more.
const STALE_MS: i64 = 4 * DAY_MS;
/// Days without another alarm after which one is over.
const QUIET_DAYS: i64 = 7;

/// Learns from rows by device, each (time ms, value) ascending on the grid; `days` is what the days of the same rows look
/// like, `channels` how many are watched beside each other. None where nothing can be learnt, and where a month is more rows
/// than a threshold can be found for (some ten minutes of five channels).
#[must_use]
pub fn learn(
    period: i64,
    days: &DayReference,
    devices: &[(&str, Vec<(i64, f64)>)],
    channels: usize,
) -> Option<RunReference> {
    let a_day = DAY_MS / period.max(1);
    let span = |rows: &[(i64, f64)]| rows.last().map_or(0, |l| l.0 - rows[0].0);
    let mut known: Vec<(&[(i64, f64)], DayScale)> = devices
        .iter()
        .filter_map(|(name, rows)| {
            let newest = &rows[rows.len().saturating_sub(MOST_ROWS)..];
            Some((newest, *days.devices.get(*name)?))
        })
        .collect();
    known.sort_by_key(|(rows, _)| std::cmp::Reverse(rows.len()));
    known.truncate(MOST_DEVICES);
    let longest = span(known.first()?.0);
    let season = if a_day < 2 || DAY_MS % period != 0 {
        0
    } else if 7 * a_day <= WEEK_ROWS && longest >= WEEKS * 7 * DAY_MS {
        7 * a_day
    } else if a_day <= DAY_ROWS {
        a_day
    } else {
        0
    };
    let first = known.first()?.0.first()?.0.div_euclid(period);
    let mut values: Vec<f64> = Vec::new();
    for (rows, scale) in known {
        // Rows of another device never follow on, and keep their place in the season.
        if let Some((time, _)) = rows.first()
            && !values.is_empty()
        {
            values.extend([f64::NAN; super::MOST_LAGS + 1]);
            let here = first + values.len() as i64;
            let apart = (time.div_euclid(period) - here).rem_euclid(season.max(1));
            values.extend((0..apart).map(|_| f64::NAN));
        }
        let mut last: Option<i64> = None;
        for (time, value) in rows {
            let row = time.div_euclid(period);
            // A long gap keeps its place in the season and no more.
            let missing = last.map_or(0, |last| {
                let gap = (row - last - 1).max(0);
                if gap > 2 * season.max(MOST_ROWS as i64) {
                    MOST_ROWS as i64 + (gap - MOST_ROWS as i64).rem_euclid(season.max(1))
                } else {
                    gap
                }
            });
            values.extend((0..missing).map(|_| f64::NAN));
            values.push(standard(days, scale, *time, *value));
            last = Some(row);
        }
    }
    let asked = DAYS * a_day.max(1) as f64 * channels.max(1) as f64;
    let options = RunOptions {
        run_length: asked.max(20.0),
        season: usize::try_from(season).unwrap_or(0),
        ..RunOptions::default()
    };
    RunReference::fit(&values, first, &options).ok()
}

/// A value in deviations of its device's days, less the season.
fn standard(days: &DayReference, scale: DayScale, time: i64, value: f64) -> f64 {
    (value - scale.level) / scale.std - days.season(day_of(time))
}

/// Watches one channel's rows on one device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RowWatch {
    monitor: RunMonitor,
    /// Row of the last alarm, while one stands.
    alarm: Option<i64>,
    /// An alarm that is held back.
    #[serde(default)]
    held: Option<InputEvent>,
}

impl RowWatch {
    /// Whether an alarm stands.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.alarm.is_some()
    }

    /// Takes the value at a grid time; an event comes when an alarm of two days ago is told, or one has ended.
    pub fn update(
        &mut self,
        (reference, days, scale): (&RunReference, &DayReference, DayScale),
        period: i64,
        time: i64,
        value: f64,
    ) -> Option<InputEvent> {
        let row = time.div_euclid(period.max(1));
        let at = |row: i64| row.saturating_mul(period);
        let judged = if days.knows(day_of(time)) {
            standard(days, scale, time, value)
        } else {
            f64::NAN
        };
        if let Some(alarm) = self.monitor.update(reference, row, judged) {
            if self.alarm.is_none() {
                self.held = Some(InputEvent {
                    raised: true,
                    time,
                    onset: at(alarm.onset),
                    statistic: alarm.statistic,
                    threshold: alarm.threshold,
                    // Where it lies now: what a lasting shift would come to is far beyond a slow sensor's reach.
                    shift: alarm.value,
                    days: alarm.rows,
                });
            }
            self.alarm = Some(row);
        }
        let age = self.held.map(|held| time.saturating_sub(held.time));
        if age.is_some_and(|age| age >= HOLD_MS) {
            // What comes due long after, since nobody looked meanwhile, is no news and nobody knows what explains it.
            let news = age.is_some_and(|age| age <= STALE_MS.max(2 * period));
            return self.held.take().filter(|_| news);
        }
        let quiet = self
            .alarm
            .is_some_and(|last| at(row - last) > QUIET_DAYS * DAY_MS);
        quiet.then(|| {
            self.alarm = None;
            InputEvent {
                raised: false,
                time,
                onset: time,
                statistic: 0.0,
                threshold: reference.threshold(),
                shift: 0.0,
                days: 0,
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::days::DayFold;
    use crate::window::random::Random;

    const HOUR: i64 = 3_600_000;

    /// Two years of hours with a day, a year and slow noise, on a scale.
    fn series(seed: u64, scale: f64) -> Vec<(i64, f64)> {
        let mut random = Random::new(seed);
        let mut slow = 0.0;
        (1..=24 * 730)
            .map(|h| {
                slow = 0.9 * slow + 0.4 * random.normal();
                let wave = |period: f64| (h as f64 / period * std::f64::consts::TAU).sin();
                let value = 8.0 * wave(24.0 * 365.2425) + 3.0 * wave(24.0) + slow;
                (h * HOUR, scale * (20.0 + value))
            })
            .collect()
    }

    fn days(devices: &[(&str, Vec<(i64, f64)>)]) -> DayReference {
        let fold = |rows: &[(i64, f64)]| {
            let mut fold = DayFold::default();
            let done = rows.iter().filter_map(|(t, v)| fold.push(HOUR, *t, *v));
            done.map(|d| (d.day, d.mean)).collect::<Vec<_>>()
        };
        let each: Vec<_> = devices
            .iter()
            .map(|(name, rows)| (*name, fold(rows)))
            .collect();
        DayReference::fit(&each).unwrap()
    }

    #[test]
    fn a_shift_is_told_within_a_day_and_a_quiet_year_seldom_whatever_the_scale() {
        let cut = |rows: Vec<(i64, f64)>| rows[..24 * 400].to_vec();
        let devices = [("a", cut(series(1, 1.0))), ("b", cut(series(2, 50.0)))];
        let days = days(&devices);
        let reference = learn(HOUR, &days, &devices, 1).unwrap();
        let mut alarms = 0;
        for (name, seed, scale) in [("a", 1, 1.0), ("b", 2, 50.0)] {
            let own = days.devices[name];
            let mut watch = RowWatch::default();
            for (time, value) in &series(seed, scale)[24 * 400..] {
                let event = watch.update((&reference, &days, own), HOUR, *time, *value);
                alarms += usize::from(event.is_some_and(|e| e.raised));
                if time % (7 * HOUR) == 0 {
                    watch = serde_json::from_slice(&serde_json::to_vec(&watch).unwrap()).unwrap();
                }
            }
            let mut watch = RowWatch::default();
            let moved = series(seed, scale);
            let from = 24 * 500;
            let shifted = moved[from - 48..from + 120]
                .iter()
                .enumerate()
                .map(|(i, (t, v))| (*t, if i >= 48 { v + 4.0 * scale } else { *v }));
            let found = shifted
                .filter_map(|(t, v)| watch.update((&reference, &days, own), HOUR, t, v))
                .find(|e| e.raised)
                .unwrap();
            let began = moved[from].0;
            assert!(
                found.time - began <= 24 * HOUR && found.shift > 0.0,
                "{found:?}"
            );
            assert!((found.onset - began).abs() <= 12 * HOUR, "{found:?}");
        }
        // Two devices of eleven months each, one alarm a month asked for; what stands for a week counts once.
        assert!(alarms <= 2 * 18, "{alarms}");
    }

    #[test]
    fn an_alarm_ends_after_a_quiet_week_and_unknown_devices_teach_nothing() {
        let devices = [("a", series(4, 1.0)[..24 * 400].to_vec())];
        let days = days(&devices);
        let reference = learn(HOUR, &days, &devices, 3).unwrap();
        let own = days.devices["a"];
        let mut watch = RowWatch::default();
        let rows = &series(4, 1.0)[24 * 400..24 * 440];
        let mut told = Vec::new();
        for (i, (time, value)) in rows.iter().enumerate() {
            let value = if (200..260).contains(&i) {
                value + 6.0
            } else {
                *value
            };
            let event = watch.update((&reference, &days, own), HOUR, *time, value);
            told.extend(event.map(|e| (e.raised, i)));
        }
        assert_eq!(
            told.iter().map(|t| t.0).collect::<Vec<_>>(),
            [true, false],
            "{told:?}"
        );
        // Held for two days.
        assert!(
            (248..263).contains(&told[0].1) && told[1].1 > 260 + 7 * 24 - 60,
            "{told:?}"
        );
        let unknown = [("b", series(4, 1.0)[..24 * 400].to_vec())];
        assert!(learn(HOUR, &days, &unknown, 1).is_none());
    }
}
