//! Checks of a single reading: owns what is refused and what is graded bad; never stops a stream.

use std::collections::BTreeMap;

use fieldcast_features::quality::Quality;
use fieldcast_features::resample::MAX_VALUE;
use fieldcast_wire::caps::{MAX_TIME_MS, MIN_TIME_MS};
use fieldcast_wire::{Reading, SensorName};

use crate::config::SensorConfig;
use crate::source::RawReading;

/// Readings whose time lies further ahead of the wall clock than this cannot be (device time only).
const MAX_AHEAD_MS: i64 = 24 * 3_600_000;

/// Grades readings by what is physically possible.
#[derive(Debug, Clone, Default)]
pub struct Checker {
    ranges: BTreeMap<String, SensorConfig>,
}

impl Checker {
    /// With the configured ranges.
    #[must_use]
    pub fn new(ranges: BTreeMap<String, SensorConfig>) -> Self {
        Self { ranges }
    }

    /// The reading as it is stored, or why it is none. `now` is the wall clock.
    ///
    /// # Errors
    /// A name, value or time that cannot be; the text says what is allowed.
    pub fn check(&self, raw: RawReading, now: i64) -> Result<Reading, String> {
        SensorName::new(raw.sensor.as_str()).map_err(|e| e.to_string())?;
        if !raw.value.is_finite() || raw.value.abs() > MAX_VALUE {
            return Err(format!(
                "value {} of sensor `{}` is not a finite number",
                raw.value, raw.sensor
            ));
        }
        let external = raw.time_source == fieldcast_wire::pb::TimeSource::External;
        let ahead = !external && raw.time > now.saturating_add(MAX_AHEAD_MS);
        if raw.time < MIN_TIME_MS || raw.time > MAX_TIME_MS || ahead {
            return Err(format!(
                "time {} ms of sensor `{}` is out of bounds; allowed are the years 1900 to 2199",
                raw.time, raw.sensor
            ));
        }
        let quality = self.grade(&raw.sensor, raw.value);
        Ok(Reading {
            sensor: raw.sensor,
            time: raw.time,
            value: raw.value,
            quality: quality.as_u8(),
            time_source: raw.time_source,
        })
    }

    fn grade(&self, sensor: &str, value: f64) -> Quality {
        let Some(range) = self.ranges.get(sensor) else {
            return Quality::Good;
        };
        if range.min.is_some_and(|min| value < min) || range.max.is_some_and(|max| value > max) {
            Quality::Bad
        } else {
            Quality::Good
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fieldcast_wire::pb::TimeSource;

    use super::*;

    fn raw(sensor: &str, time: i64, value: f64) -> RawReading {
        RawReading {
            sensor: sensor.into(),
            time,
            value,
            time_source: TimeSource::External,
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_what_is_out_of_range_is_graded_bad() {
        let range = SensorConfig {
            min: Some(-40.0),
            max: Some(80.0),
            ..SensorConfig::default()
        };
        let checker = Checker::new(BTreeMap::from([("t".to_owned(), range)]));
        assert_eq!(checker.check(raw("t", 5, 20.0), 0).unwrap().quality, 0);
        assert_eq!(checker.check(raw("t", 5, 99.0), 0).unwrap().quality, 2);
        assert_eq!(checker.check(raw("other", 5, 99.0), 0).unwrap().quality, 0);
        for bad in [
            raw("t", 5, f64::NAN),
            raw("t", 5, f64::INFINITY),
            raw("a/b", 5, 1.0),
            raw("alarm", 5, 1.0),
            raw("", 5, 1.0),
            raw(&"x".repeat(65), 5, 1.0),
            raw("a\u{7}", 5, 1.0),
            raw("t", i64::MAX, 1.0),
            raw("t", i64::MIN, 1.0),
        ] {
            assert!(checker.check(bad.clone(), 0).is_err(), "{bad:?}");
        }
        assert!(checker.check(raw(&"x".repeat(64), 5, 1.0), 0).is_ok());
        let long = checker.check(raw(&"x".repeat(9_999), 5, 1.0), 0);
        let long = long.unwrap_err();
        assert!(long.contains("1 to 64 bytes") && long.len() < 300, "{long}");
    }
}
