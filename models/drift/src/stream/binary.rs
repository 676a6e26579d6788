//! DDM and EDDM: own the error-rate and error-distance statistics of a stream of right (0) and wrong (1), never losses.

use serde::{Deserialize, Serialize};

/// Drift detection method (Gama et al. 2004), River's defaults: 30 values, warning at 2, drift at 3 deviations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ddm {
    warm_start: u64,
    n: u64,
    p: f64,
    least: Option<(f64, f64)>,
    warning: bool,
    fired: bool,
}

impl Default for Ddm {
    fn default() -> Self {
        Self {
            warm_start: 30,
            n: 0,
            p: 0.0,
            least: None,
            warning: false,
            fired: false,
        }
    }
}

impl Ddm {
    /// Whether the last value was in the warning zone.
    #[must_use]
    pub fn warning(&self) -> bool {
        self.warning
    }

    /// Takes 1 for an error, 0 for none (values between count in part); true = alarm.
    pub fn update(&mut self, x: f64) -> bool {
        if !(0.0..=1.0).contains(&x) {
            return false;
        }
        if self.fired {
            *self = Self {
                warm_start: self.warm_start,
                ..Self::default()
            };
        }
        self.n += 1;
        self.p += (x - self.p) / self.n as f64;
        let s = (self.p * (1.0 - self.p)).max(0.0).sqrt() / (self.n as f64).sqrt();
        if self.n > self.warm_start {
            let level = self.p + s;
            let (p, dev) = match self.least {
                Some((p, dev)) if level > p + dev => (p, dev),
                _ => (self.p, s),
            };
            self.least = Some((p, dev));
            self.warning = level > p + 2.0 * dev;
            self.fired = level > p + 3.0 * dev;
        }
        self.fired
    }
}

/// Early drift detection method (Baena-García et al. 2006), River's defaults: warm start 30, warning at 0.95, drift at 0.9
/// of the largest mean distance between errors plus twice its deviation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Eddm {
    warm_start: u64,
    warning_at: f64,
    drift_at: f64,
    n: u64,
    last_error: u64,
    errors: u64,
    mean: f64,
    squares: f64,
    most: f64,
    warning: bool,
    fired: bool,
}

impl Default for Eddm {
    fn default() -> Self {
        Self {
            warm_start: 30,
            warning_at: 0.95,
            drift_at: 0.9,
            n: 0,
            last_error: 0,
            errors: 0,
            mean: 0.0,
            squares: 0.0,
            most: -1.0,
            warning: false,
            fired: false,
        }
    }
}

impl Eddm {
    /// Whether the last error was in the warning zone.
    #[must_use]
    pub fn warning(&self) -> bool {
        self.warning
    }

    /// Takes 1 for an error, 0 for none; true = alarm.
    pub fn update(&mut self, x: f64) -> bool {
        if !x.is_finite() {
            return false;
        }
        if self.fired {
            *self = Self {
                warm_start: self.warm_start,
                ..Self::default()
            };
        }
        self.n += 1;
        if x != 1.0 {
            return false;
        }
        let distance = (self.n - self.last_error) as f64;
        self.last_error = self.n;
        self.errors += 1;
        let before = self.mean;
        self.mean += (distance - self.mean) / self.errors as f64;
        self.squares += (distance - self.mean) * (distance - before);
        if self.n <= self.warm_start {
            return false;
        }
        let freedom = self.errors.saturating_sub(1).max(1) as f64;
        let level = self.mean + 2.0 * (self.squares / freedom).sqrt();
        if level > self.most {
            self.most = level;
        } else if self.errors > self.warm_start {
            let ratio = level / self.most;
            self.fired = ratio < self.drift_at;
            self.warning = !self.fired && ratio < self.warning_at;
        }
        self.fired
    }
}
