//! Page-Hinkley: owns the two-sided cumulative deviation from the running mean, never a standardisation.

use serde::{Deserialize, Serialize};

/// Page-Hinkley's test on both sides with River's defaults: 30 values, delta 0.005, threshold 50, alpha 0.9999.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PageHinkley {
    /// Fewest values before an alarm.
    pub min_instances: u64,
    /// Deviation that is tolerated.
    pub delta: f64,
    /// Alarm threshold.
    pub threshold: f64,
    /// Forgetting factor.
    pub alpha: f64,
    n: u64,
    mean: f64,
    up: f64,
    down: f64,
    min_up: Option<f64>,
    max_down: f64,
    fired: bool,
}

impl Default for PageHinkley {
    fn default() -> Self {
        Self::new(30, 0.005, 50.0, 0.9999)
    }
}

impl PageHinkley {
    /// With parameters of one's own.
    #[must_use]
    pub fn new(min_instances: u64, delta: f64, threshold: f64, alpha: f64) -> Self {
        Self {
            min_instances,
            delta,
            threshold,
            alpha,
            n: 0,
            mean: 0.0,
            up: 0.0,
            down: 0.0,
            min_up: None,
            max_down: -1.0,
            fired: false,
        }
    }

    /// Takes a value; true = alarm.
    pub fn update(&mut self, x: f64) -> bool {
        if !x.is_finite() {
            return false;
        }
        if self.fired {
            *self = Self::new(self.min_instances, self.delta, self.threshold, self.alpha);
        }
        self.n += 1;
        self.mean += (x - self.mean) / self.n as f64;
        let deviation = x - self.mean;
        self.up = self.alpha * self.up + deviation - self.delta;
        self.down = self.alpha * self.down + deviation + self.delta;
        let min_up = self.min_up.map_or(self.up, |m| m.min(self.up));
        self.min_up = Some(min_up);
        self.max_down = self.max_down.max(self.down);
        let most = (self.up - min_up).max(self.max_down - self.down);
        self.fired = self.n >= self.min_instances && most > self.threshold;
        self.fired
    }
}
