//! The `[sensors.NAME]` tables: owns their keys, defaults and rules; never judges a reading.

use fieldcast_drift::sensor::SensorLimits;
use fieldcast_features::grid::parse_period;
use serde::Deserialize;

/// A sensor is missing after this long without a usable reading, where nothing else is said.
const MISSING_AFTER_MS: i64 = 24 * 3_600_000;

/// What is normal for a sensor; what is not given has a default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensorConfig {
    /// Smallest possible value; anything below is graded bad.
    pub min: Option<f64>,
    /// Largest possible value; anything above is graded bad.
    pub max: Option<f64>,
    /// Identical readings in a row that mean "stuck" and are graded bad from there on; 0 = never. Default 48, once they last for
    /// four hours and are twice as many as the sensor stayed the same before; what is given needs neither.
    pub stuck_after: Option<u32>,
    /// A value at which the sensor may rest for as long as it likes. Default 0.
    pub resting: Option<f64>,
    /// A step this many times the usual one is a spike, graded suspect; 0 = never. Default 12.
    pub spike_factor: Option<f64>,
    /// Fastest possible change, in the sensor's unit an hour; anything faster is graded bad. Default none.
    pub max_rate: Option<f64>,
    /// Whether far more scatter than usual is graded bad. Default true.
    pub noise: Option<bool>,
    /// Whether a change to another unit is looked for, and graded bad. Default true.
    pub unit: Option<bool>,
    /// Silence that means "missing", such as `10m`; `0` = never. Default `24h`.
    pub missing_after: Option<String>,
}

impl SensorConfig {
    /// The limits of its monitor.
    #[must_use]
    pub fn limits(&self) -> SensorLimits {
        let usual = SensorLimits::default();
        SensorLimits {
            min: self.min,
            max: self.max,
            stuck_after: self.stuck_after.unwrap_or(usual.stuck_after),
            resting: self.resting.or(usual.resting),
            stuck_for_ms: match self.stuck_after {
                Some(_) => 0,
                None => usual.stuck_for_ms,
            },
            missing_after_ms: self.missing_after_ms().unwrap_or(MISSING_AFTER_MS),
            spike_factor: self.spike_factor.unwrap_or(usual.spike_factor),
            max_rate: self.max_rate,
            noise: self.noise.unwrap_or(usual.noise),
            unit: self.unit.unwrap_or(usual.unit),
        }
    }

    fn missing_after_ms(&self) -> Option<i64> {
        match self.missing_after.as_deref()? {
            "0" => Some(0),
            text => parse_period(text).ok(),
        }
    }

    pub(super) fn check(&self, name: &str) -> Result<(), (&'static str, String)> {
        let finite = [
            ("min", self.min),
            ("max", self.max),
            ("resting", self.resting),
        ];
        for (key, value) in finite {
            if value.is_some_and(|v| !v.is_finite()) {
                return Err((key, format!("of sensor `{name}` must be a finite number")));
            }
        }
        if let (Some(min), Some(max)) = (self.min, self.max)
            && min >= max
        {
            let problem = format!("of sensor `{name}` must be below `max`; correct one of them");
            return Err(("min", problem));
        }
        if self.spike_factor.is_some_and(|f| !f.is_finite() || f < 0.0) {
            let problem = format!("of sensor `{name}` must be 0 (never) or a positive number");
            return Err(("spike_factor", problem));
        }
        if self.max_rate.is_some_and(|r| !r.is_finite() || r <= 0.0) {
            let problem =
                format!("of sensor `{name}` must be a positive number, in its unit an hour");
            return Err(("max_rate", problem));
        }
        if self.missing_after.is_some() && self.missing_after_ms().is_none() {
            let problem = format!("of sensor `{name}` must be `0` (never) or a time such as `10m`");
            return Err(("missing_after", problem));
        }
        Ok(())
    }
}
