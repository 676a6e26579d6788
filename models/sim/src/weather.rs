//! Weather: owns temperature and humidity hour by hour, knows nothing of demand.

use std::f64::consts::TAU;

use crate::random::{Persistent, Stream};
use fieldcast_features::Millis;

use crate::spec::HOUR_MS;

const YEAR_HOURS: f64 = 8_766.0;

/// Weather at one hour at one device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// °C, strictly inside 15..35.
    pub(crate) temperature: f64,
    /// Percent, strictly inside 30..90.
    pub(crate) humidity: f64,
}

/// The weather at one device: what the whole region shares, and a little of its own.
#[derive(Debug, Clone)]
pub(crate) struct WeatherSource {
    regional_heat: Persistent,
    regional_damp: Persistent,
    local_heat: Persistent,
    local_damp: Persistent,
    offset: f64,
}

impl WeatherSource {
    pub(crate) fn new(seed: u64, device: u32) -> Self {
        let own = u64::from(device) << 8;
        Self {
            // Streams 1 and 2 know no device: all devices of a seed lie under the same fronts.
            regional_heat: Persistent::new(Stream::new(seed, 1), 60.0, 2.8),
            regional_damp: Persistent::new(Stream::new(seed, 2), 36.0, 11.0),
            local_heat: Persistent::new(Stream::new(seed, own | 0x81), 12.0, 0.6),
            local_damp: Persistent::new(Stream::new(seed, own | 0x82), 12.0, 3.0),
            offset: 1.6 * (Stream::new(seed, own | 0x83).uniform() - 0.5),
        }
    }

    /// The next hour; `time` only places it in the day and the year.
    pub(crate) fn step(&mut self, time: Millis) -> Weather {
        #[allow(
            clippy::cast_precision_loss,
            reason = "hours since 1970 are far below 2^52"
        )]
        let hours = time.div_euclid(HOUR_MS) as f64;
        let summer = -(TAU * hours / YEAR_HOURS).cos();
        let afternoon = (TAU * (hours - 15.0) / 24.0).cos();
        let anomaly = self.regional_heat.step() + self.local_heat.step() + self.offset;
        let damp = self.regional_damp.step() + self.local_damp.step();
        Weather {
            temperature: bend(25.0 + 2.5 * summer + 2.5 * afternoon + anomaly, 25.0, 10.0),
            humidity: bend(60.0 - 1.2 * anomaly - 7.0 * afternoon + damp, 60.0, 30.0),
        }
    }
}

/// Bends what would leave `middle ± reach` back inside: nearly straight near the middle, never outside.
fn bend(value: f64, middle: f64, reach: f64) -> f64 {
    middle + reach * ((value - middle) / reach).tanh()
}
