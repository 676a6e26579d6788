//! HDDM_A and HDDM_W: own Hoeffding-bounded comparisons of means of values in [0, 1], never unbounded losses.

use serde::{Deserialize, Serialize};

const DRIFT: f64 = 0.001;
const WARNING: f64 = 0.005;

/// HDDM with averages (Frías-Blanco et al. 2015), one-sided, River's defaults: confidence 0.001, warning 0.005.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HddmA {
    total: f64,
    n: f64,
    least_total: f64,
    least_n: f64,
    warning: bool,
    fired: bool,
}

impl HddmA {
    /// Whether the last value was in the warning zone.
    #[must_use]
    pub fn warning(&self) -> bool {
        self.warning
    }

    /// Takes a value in [0, 1] (others are ignored); true = the mean has risen.
    pub fn update(&mut self, x: f64) -> bool {
        if !(0.0..=1.0).contains(&x) {
            return false;
        }
        if self.fired {
            *self = Self::default();
        }
        self.total += x;
        self.n += 1.0;
        let bound = |n: f64| ((1.0 / DRIFT).ln() / (2.0 * n)).sqrt();
        if self.least_n == 0.0
            || self.least_total / self.least_n + bound(self.least_n)
                >= self.total / self.n + bound(self.n)
        {
            (self.least_total, self.least_n) = (self.total, self.n);
        }
        let risen = |confidence: f64| {
            let m = (self.n - self.least_n) / (self.least_n * self.n);
            self.least_n != self.n
                && self.total / self.n - self.least_total / self.least_n
                    >= (m / 2.0 * (2.0 / confidence).ln()).sqrt()
        };
        let (warning, fired) = (risen(WARNING), risen(DRIFT));
        self.warning = warning && !fired;
        self.fired = fired;
        fired
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Ewma {
    mean: f64,
    weight: f64,
}

impl Ewma {
    /// As River has it: the weight begins at one before the first value, and a mean of zero begins anew.
    fn next(before: Option<Self>, x: f64, lambda: f64) -> Self {
        let e = before.unwrap_or(Self {
            mean: 0.0,
            weight: 1.0,
        });
        Self {
            mean: if e.mean == 0.0 {
                x
            } else {
                lambda * x + (1.0 - lambda) * e.mean
            },
            weight: lambda * lambda + (1.0 - lambda) * (1.0 - lambda) * e.weight,
        }
    }
}

/// HDDM with exponentially weighted averages, one-sided, River's defaults: lambda 0.05, confidence 0.001, warning 0.005.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HddmW {
    lambda: f64,
    total: Option<Ewma>,
    before: Option<Ewma>,
    after: Option<Ewma>,
    cut: Option<f64>,
    warning: bool,
    fired: bool,
}

impl Default for HddmW {
    fn default() -> Self {
        Self {
            lambda: 0.05,
            total: None,
            before: None,
            after: None,
            cut: None,
            warning: false,
            fired: false,
        }
    }
}

impl HddmW {
    /// Whether the last value was in the warning zone.
    #[must_use]
    pub fn warning(&self) -> bool {
        self.warning
    }

    /// Takes a value in [0, 1] (others are ignored); true = the mean has risen.
    pub fn update(&mut self, x: f64) -> bool {
        if !(0.0..=1.0).contains(&x) {
            return false;
        }
        if self.fired {
            *self = Self {
                lambda: self.lambda,
                ..Self::default()
            };
        }
        let total = Ewma::next(self.total, x, self.lambda);
        self.total = Some(total);
        let level = total.mean + (total.weight * (1.0 / DRIFT).ln() / 2.0).sqrt();
        if self.cut.is_none_or(|cut| level < cut) {
            self.cut = Some(level);
            self.before = Some(total);
            self.after = None;
        } else {
            self.after = Some(Ewma::next(self.after, x, self.lambda));
        }
        let risen = |confidence: f64| match (self.before, self.after) {
            (Some(a), Some(b)) => {
                b.mean - a.mean > ((a.weight + b.weight) * (1.0 / confidence).ln() / 2.0).sqrt()
            }
            _ => false,
        };
        let (warning, fired) = (risen(WARNING), risen(DRIFT));
        self.warning = warning && !fired;
        self.fired = fired;
        fired
    }
}
