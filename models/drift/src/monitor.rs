//! The device's concept-drift monitor: owns the CUSUM over daily forecast errors and what it learns of their level, never
//! the errors' history.

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
/// Days of calibration and own experience after which a device learns no more of its level.
const LEARN_DAYS: f64 = 90.0;

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
    /// How far this device's level may lie from `mean_log` beyond the days' own scatter: 0 where the level is its own,
    /// the deviation between devices where it is that of others.
    #[serde(default)]
    pub level_std: f64,
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
            level_std: 0.0,
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

/// What is known of the undrifted days: moments, and how many independent days they are worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Level {
    mean: f64,
    squares: f64,
    days: f64,
    /// Days that say something of this device's level.
    own: f64,
}

/// Days of an excursion of the CUSUM: learnt when it ends at zero, forgotten when it ends in an alarm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Excursion {
    days: f64,
    mean: f64,
    squares: f64,
}

impl Excursion {
    fn add(&mut self, value: f64) {
        self.days += 1.0;
        let apart = value - self.mean;
        self.mean += apart / self.days;
        self.squares += apart * (value - self.mean);
    }
}

impl Level {
    fn std(&self) -> f64 {
        (self.squares / (self.days - 1.0).max(1.0))
            .sqrt()
            .max(MIN_STD)
    }

    /// Joins the moments of undrifted days (Chan, Golub and LeVeque 1979).
    fn learn(&mut self, new: &Excursion) {
        if new.days == 0.0 || self.own >= LEARN_DAYS {
            return;
        }
        let apart = new.mean - self.mean;
        self.mean += apart * new.days / (self.own + new.days);
        self.squares += new.squares + apart * apart * self.own * new.days / (self.own + new.days);
        self.days += new.days;
        self.own += new.days;
    }
}

/// Upper CUSUM (k = [`K`]) over standardised ln(daily mean absolute error), with a level that it learns itself
/// (self-starting, after Hawkins 1987).
///
/// The threshold follows from the expected undrifted run time by Siegmund's approximation with the variance inflated by
/// the autocorrelation ([`crate::stream::average_run_length`]). The level is known only to its own standard error, which
/// is subtracted from each day so that a short calibration does not raise false alarms; it shrinks as the device's own
/// undrifted days join the calibration's, up to three months of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorMonitor {
    level: Level,
    inflation: f64,
    excursion: Excursion,
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
        let deviation = |s: f64| s.is_finite() && s >= 0.0;
        if !deviation(calibration.std_log) || !deviation(calibration.level_std) {
            return fail(
                "std_log, level_std",
                "must be finite and not negative; calibrate the bundle again",
            );
        }
        if !(10.0..=1e6).contains(&run_days) {
            return fail("run_days", "must be 10 to 1000000 days");
        }
        let inflation = calibration.inflation();
        let days = f64::from(calibration.days.max(1));
        let std = calibration.std_log.max(MIN_STD);
        // A level taken from other devices is worth as many days of this one as leave the same doubt.
        let borrowed = inflation * (std / calibration.level_std.max(1e-9)).powi(2);
        Ok(Self {
            level: Level {
                mean: calibration.mean_log,
                squares: std * std * (days - 1.0).max(1.0),
                days,
                own: days.min(borrowed),
            },
            inflation,
            excursion: Excursion::default(),
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
        let std = self.level.std();
        let raw = (error.max(f64::MIN_POSITIVE).ln() - self.level.mean) / std;
        let clipped = raw.clamp(-CLIP, CLIP);
        let doubt = (self.inflation / self.level.own).sqrt().min(1.0);
        let above = self.cusum.update(clipped - doubt);
        self.excursion.add(self.level.mean + clipped * std);
        if self.cusum.sum() == 0.0 {
            self.onset = None;
            self.log_sum = 0.0;
            let excursion = std::mem::take(&mut self.excursion);
            if std::mem::take(&mut self.raised) {
                return Some(ErrorEvent::Cleared { time });
            }
            self.level.learn(&excursion);
            return None;
        }
        self.onset.get_or_insert(time);
        self.log_sum += clipped * std;
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
