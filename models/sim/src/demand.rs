//! Demand: owns how it follows hour, weekday and weather, and how that relation changes from regime to regime.

use std::f64::consts::TAU;

use chrono::{DateTime, Datelike, Timelike};
use fieldcast_features::Millis;

use crate::random::{Persistent, Stream};
use crate::weather::Weather;

/// How demand answers the weather. Shares of the device's scale for each unit of felt weather.
#[derive(Debug, Clone, Copy)]
struct Regime {
    /// Per unit of felt warmth.
    heat: f64,
    /// Per unit of squared felt warmth (both heating and cooling ask for more).
    curve: f64,
    /// +1: answers in the afternoon only; -1: in the night only.
    swing: f64,
    /// Per unit of felt damp.
    damp: f64,
}

/// The relations that follow each other; after the last comes the first again.
const REGIMES: [Regime; 3] = [
    // Cooling: warm afternoons ask for more, damp hardly matters.
    Regime {
        heat: 0.18,
        curve: 0.0,
        swing: 0.6,
        damp: -0.04,
    },
    // Heating by night: cold asks for more, damp too.
    Regime {
        heat: -0.18,
        curve: 0.0,
        swing: -0.5,
        damp: 0.10,
    },
    // Both extremes ask for more, at any hour; damp days ask for less.
    Regime {
        heat: 0.12,
        curve: 0.10,
        swing: 0.3,
        damp: -0.12,
    },
];

/// Hours that a building remembers the weather: what makes past weather worth knowing.
const INERTIA_HOURS: f64 = 14.0;

/// The demand at one device.
#[derive(Debug, Clone)]
pub(crate) struct DemandSource {
    scale: f64,
    slow_noise: Persistent,
    noise: Stream,
    warmth: f64,
    damp: f64,
}

impl DemandSource {
    pub(crate) fn new(seed: u64, device: u32) -> Self {
        let own = u64::from(device) << 8;
        Self {
            scale: 100.0 * (1.2 * (Stream::new(seed, own | 0x91).uniform() - 0.5)).exp(),
            slow_noise: Persistent::new(Stream::new(seed, own | 0x92), 5.0, 0.03),
            noise: Stream::new(seed, own | 0x93),
            warmth: 0.0,
            damp: 0.0,
        }
    }

    /// Demand of the next hour, in regime number `regime`; never negative.
    pub(crate) fn step(&mut self, time: Millis, weather: Weather, regime: usize) -> f64 {
        let follow = 1.0 - (-1.0 / INERTIA_HOURS).exp();
        self.warmth += follow * ((weather.temperature - 25.0) / 3.0 - self.warmth);
        self.damp += follow * ((weather.humidity - 60.0) / 10.0 - self.damp);
        let r = REGIMES[regime % REGIMES.len()];
        let (hour, weekend) = hour_and_weekend(time);
        let reaction = 1.0 + r.swing * (TAU * (hour - 15.0) / 24.0).cos();
        let weather_effect = r.heat * self.warmth + r.curve * (self.warmth * self.warmth - 0.8);
        let share = profile(hour, weekend)
            + weather_effect * reaction
            + r.damp * self.damp
            + self.slow_noise.step()
            + 0.02 * self.noise.normal();
        (self.scale * share).max(0.0)
    }
}

fn hour_and_weekend(time: Millis) -> (f64, bool) {
    DateTime::from_timestamp_millis(time).map_or((0.0, false), |t| {
        (
            f64::from(t.hour()) + f64::from(t.minute()) / 60.0,
            t.weekday().num_days_from_monday() >= 5,
        )
    })
}

/// Share of the scale before any weather: two humps on working days, one late and lower on weekends.
fn profile(hour: f64, weekend: bool) -> f64 {
    let hump = |centre: f64, width: f64| {
        let apart = (hour - centre + 12.0).rem_euclid(24.0) - 12.0;
        (-0.5 * (apart / width).powi(2)).exp()
    };
    if weekend {
        0.85 + 0.35 * hump(14.0, 4.0)
    } else {
        0.85 + 0.45 * hump(8.5, 2.0) + 0.60 * hump(18.0, 2.8)
    }
}
