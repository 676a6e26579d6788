//! The device's concept-drift monitor: owns the CUSUM over daily forecast errors, never the errors' history.

use serde::{Deserialize, Serialize};

use crate::StatError;
use crate::stream::{Cusum, threshold_for};

/// Reference value in deviations: made for changes of one deviation and more.
pub const K: f64 = 0.5;
/// Expected undrifted days until a false alarm, by default.
pub const RUN_DAYS: f64 = 1_500.0;
/// Largest standardised error a single day may count: one broken day is no drift.
pub const CLIP: f64 = 4.0;
/// Smallest deviation of the log errors that is believed.
const MIN_STD: f64 = 0.05;

/// How large the daily errors are while the model is right: the bundle's calibration.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ErrorCalibration {
    /// Mean of ln(daily mean absolute error).
    pub mean_log: f64,
    /// Deviation of ln(daily mean absolute error).
    pub std_log: f64,
    /// Its lag-1 autocorrelation, 0 to below 1.
    pub lag1: f64,
    /// Days the three were estimated from.
    pub days: u32,
}

impl ErrorCalibration {
    /// From the daily mean absolute errors of a calibration part; non-positive and non-finite days are left out.
    ///
    /// # Errors
    /// [`StatError::Parameter`] with fewer than 5 usable days.
    pub fn from_daily(errors: &[f64]) -> Result<Self, StatError> {
        let logs: Vec<f64> = errors
            .iter()
            .filter(|e| e.is_finite() && **e > 0.0)
            .map(|e| e.ln())
            .collect();
        if logs.len() < 5 {
            return Err(StatError::Parameter {
                subject: "error calibration",
                parameter: "errors",
                problem: format!(
                    "hold {} usable days; 5 are needed, lengthen the calibration part",
                    logs.len()
                ),
            });
        }
        let n = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / n;
        let squares: f64 = logs.iter().map(|v| (v - mean).powi(2)).sum();
        let products: f64 = logs.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum();
        // A short sample's autocorrelation comes out too small by about (1 + 4 r) / n (Kendall 1954).
        let raw = if squares > 0.0 {
            products / squares
        } else {
            0.0
        };
        let lag1 = (raw + (1.0 + 4.0 * raw) / n).clamp(0.0, 0.95);
        Ok(Self {
            mean_log: mean,
            std_log: (squares / (n - 1.0)).sqrt(),
            lag1,
            days: logs.len() as u32,
        })
    }

    /// Long-run variance over variance, (1 + r) / (1 - r).
    #[must_use]
    pub fn inflation(&self) -> f64 {
        let r = if self.lag1.is_finite() {
            self.lag1.clamp(0.0, 0.95)
        } else {
            0.0
        };
        (1.0 + r) / (1.0 - r)
    }
}

/// The model has become worse.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DriftSignal {
    /// Data time of the day that raised it (ms).
    pub time: i64,
    /// The CUSUM.
    pub statistic: f64,
    /// What it had to pass.
    pub threshold: f64,
    /// Data time of the first day since the CUSUM last left zero (ms): about when it began.
    pub onset: i64,
    /// Days from the onset to the signal, both included.
    pub days: u64,
    /// Typical error since the onset over the calibration's: 1.5 = half as large again.
    pub severity: f64,
}

/// What a closed day did to the monitor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum ErrorEvent {
    /// Drift was found; it comes once, until it is cleared or the monitor is made anew for a new bundle.
    Raised(DriftSignal),
    /// The errors are back: the CUSUM has returned to zero.
    Cleared {
        /// Data time of the day (ms).
        time: i64,
    },
}

/// Upper CUSUM (k = [`K`]) over standardised ln(daily mean absolute error).
///
/// The threshold follows from the expected undrifted run time by Siegmund's approximation with the variance inflated by
/// the autocorrelation ([`crate::stream::average_run_length`]). The calibration's mean is known only to its own standard
/// error, which is subtracted from each day so that a short calibration does not raise false alarms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorMonitor {
    mean_log: f64,
    std_log: f64,
    allowance: f64,
    cusum: Cusum,
    raised: bool,
    last: Option<i64>,
    onset: Option<i64>,
    log_sum: f64,
}

impl ErrorMonitor {
    /// For a bundle's calibration; `run_days` = expected undrifted days until a false alarm ([`RUN_DAYS`]).
    ///
    /// # Errors
    /// [`StatError::Parameter`] for a calibration that is not finite or `run_days` outside 10 to 1e6.
    pub fn new(calibration: &ErrorCalibration, run_days: f64) -> Result<Self, StatError> {
        let fail = |parameter, problem: &str| {
            Err(StatError::Parameter {
                subject: "error monitor",
                parameter,
                problem: problem.into(),
            })
        };
        if !calibration.mean_log.is_finite() {
            return fail("mean_log", "must be finite; calibrate the bundle again");
        }
        if !calibration.std_log.is_finite() || calibration.std_log < 0.0 {
            return fail(
                "std_log",
                "must be finite and not negative; calibrate the bundle again",
            );
        }
        if !(10.0..=1e6).contains(&run_days) {
            return fail("run_days", "must be 10 to 1000000 days");
        }
        let inflation = calibration.inflation();
        Ok(Self {
            mean_log: calibration.mean_log,
            std_log: calibration.std_log.max(MIN_STD),
            allowance: (inflation / f64::from(calibration.days.max(1)))
                .sqrt()
                .min(1.0),
            cusum: Cusum::new(K, threshold_for(run_days, K, inflation))?,
            raised: false,
            last: None,
            onset: None,
            log_sum: 0.0,
        })
    }

    /// Takes a closed day: its data time (ms) and the mean absolute error of its forecasts. Days that are not newer than
    /// the last, and errors that are not finite or negative, change nothing.
    pub fn update(&mut self, time: i64, error: f64) -> Option<ErrorEvent> {
        if !error.is_finite() || error < 0.0 || self.last.is_some_and(|last| time <= last) {
            return None;
        }
        self.last = Some(time);
        let raw = (error.max(f64::MIN_POSITIVE).ln() - self.mean_log) / self.std_log;
        let clipped = raw.clamp(-CLIP, CLIP);
        let above = self.cusum.update(clipped - self.allowance);
        if self.cusum.sum() == 0.0 {
            self.onset = None;
            self.log_sum = 0.0;
            return std::mem::take(&mut self.raised).then_some(ErrorEvent::Cleared { time });
        }
        self.onset.get_or_insert(time);
        self.log_sum += clipped * self.std_log;
        if above && !self.raised {
            self.raised = true;
            return self.signal().map(ErrorEvent::Raised);
        }
        None
    }

    /// The state as a signal, raised or not; `None` while the CUSUM is zero.
    #[must_use]
    pub fn signal(&self) -> Option<DriftSignal> {
        let days = self.cusum.since();
        Some(DriftSignal {
            time: self.last?,
            statistic: self.cusum.sum(),
            threshold: self.cusum.threshold(),
            onset: self.onset?,
            days,
            severity: (self.log_sum / days.max(1) as f64).exp(),
        })
    }

    /// Whether drift is signalled at present.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.raised
    }

    /// The CUSUM's threshold.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.cusum.threshold()
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]
#[path = "monitor_tests.rs"]
mod tests;
