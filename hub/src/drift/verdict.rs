//! Whether the model has become worse: owns the verdict over daily errors of all devices, never reads them.

use fieldcast_features::Millis;
use serde::{Deserialize, Serialize};

/// When a device's signal is believed, and when it leads to a retraining.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// Fewest closed days since the onset, on some device.
    pub min_days: usize,
    /// Smallest error now over the calibrated one (geometric mean).
    pub min_ratio: f64,
    /// Smallest t of the daily log errors against the calibration.
    pub min_t: f64,
    /// Fewest days of data since the onset before a retraining.
    pub min_new_days: usize,
    /// Days of data between two retrainings.
    pub cool_down_days: i64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            min_days: 7,
            min_ratio: 1.15,
            min_t: 3.0,
            min_new_days: 14,
            cool_down_days: 14,
        }
    }
}

/// What the bundle promised: ln of a day's mean absolute error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Promise {
    /// Mean over days.
    pub mean: f64,
    /// Deviation over days.
    pub std: f64,
    /// Days behind both.
    pub days: usize,
}

/// One device's closed days since the onset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceDays {
    /// Device.
    pub device: String,
    /// Mean absolute error of each closed day with its begin, by time.
    pub days: Vec<(Millis, f64)>,
}

/// One device's part of the verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceVerdict {
    /// Device.
    pub device: String,
    /// Closed days.
    pub days: usize,
    /// Error now over the calibrated one.
    pub ratio: f64,
    /// t of the daily log errors.
    pub t: f64,
    /// Share of days above the calibrated mean.
    pub above: f64,
    /// This device alone shows the drift.
    pub drifted: bool,
}

/// The verdict over all devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The model has become worse.
    pub confirmed: bool,
    /// There are enough closed days to say so or not.
    pub enough: bool,
    /// In words: which devices, since when, by how much.
    pub words: String,
    /// Over all devices.
    pub ratio: f64,
    /// Over all devices.
    pub t: f64,
    /// Each device.
    pub devices: Vec<DeviceVerdict>,
}

/// t of mean log errors against the promise. Neighbouring days are alike, so half of them count.
fn measure(days: &[(Millis, f64)], promise: &Promise) -> (f64, f64, f64) {
    let logs: Vec<f64> = days
        .iter()
        .map(|(_, e)| e.max(1e-12).ln() - promise.mean)
        .collect();
    let n = logs.len().max(1) as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let own = (logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)).sqrt();
    let spread = own.max(promise.std).max(0.05);
    let effective = (n / 2.0).max(1.0);
    let error = spread * (1.0 / effective + 1.0 / (promise.days as f64 / 2.0).max(1.0)).sqrt();
    let above = logs.iter().filter(|l| **l > 0.0).count() as f64 / n;
    (mean.exp(), mean / error, above)
}

/// Judges the days since `onset` of all devices together and each by itself.
#[must_use]
pub fn verdict(onset: Millis, devices: &[DeviceDays], promise: &Promise, rules: &Rules) -> Verdict {
    let longest = devices.iter().map(|d| d.days.len()).max().unwrap_or(0);
    let each: Vec<DeviceVerdict> = devices
        .iter()
        .filter(|d| !d.days.is_empty())
        .map(|d| {
            let (ratio, t, above) = measure(&d.days, promise);
            let drifted =
                d.days.len() >= rules.min_days && ratio >= rules.min_ratio && t >= rules.min_t;
            DeviceVerdict {
                device: d.device.clone(),
                days: d.days.len(),
                ratio,
                t,
                above,
                drifted,
            }
        })
        .collect();
    // Devices share their weather: a day over all of them is one observation, not many.
    let mut by_day: std::collections::BTreeMap<Millis, (f64, f64)> =
        std::collections::BTreeMap::new();
    for (day, error) in devices.iter().flat_map(|d| &d.days) {
        let sum = by_day.entry(*day).or_default();
        *sum = (sum.0 + error.max(1e-12).ln(), sum.1 + 1.0);
    }
    let pooled: Vec<(Millis, f64)> = by_day
        .into_iter()
        .map(|(day, (sum, n))| (day, (sum / n).exp()))
        .collect();
    let (ratio, t, above) = measure(&pooled, promise);
    let enough = longest >= rules.min_days;
    let confirmed = enough && ratio >= rules.min_ratio && t >= rules.min_t && above >= 0.6;
    let names: Vec<&str> = each
        .iter()
        .filter(|d| d.drifted)
        .map(|d| d.device.as_str())
        .collect();
    let since = chrono::DateTime::from_timestamp_millis(onset)
        .map_or_else(String::new, |d| d.format("%Y-%m-%d").to_string());
    let words = if confirmed {
        format!(
            "since {since} the error is {ratio:.2} times the calibrated one over {} days (t = {t:.1}); devices: {}",
            pooled.len(),
            if names.is_empty() {
                "all together, none by itself".to_owned()
            } else {
                names.join(", ")
            }
        )
    } else if enough {
        format!(
            "not confirmed: since {since} the error is {ratio:.2} times the calibrated one (asked: {:.2}) with t = {t:.1} (asked: {:.1})",
            rules.min_ratio, rules.min_t
        )
    } else {
        format!(
            "{longest} closed days since {since}, {} are needed",
            rules.min_days
        )
    };
    Verdict {
        confirmed,
        enough,
        words,
        ratio,
        t,
        devices: each,
    }
}

/// What follows from a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Enqueue a training.
    Retrain,
    /// Look again later.
    Wait(String),
    /// The devices were wrong.
    NotConfirmed,
    /// Retrained too recently.
    CoolDown(String),
}

/// Decides, in data time. `last_retrain` is the data time of the last decision to retrain.
#[must_use]
pub fn decide(
    verdict: &Verdict,
    onset: Millis,
    now: Millis,
    last_retrain: Option<Millis>,
    rules: &Rules,
) -> Decision {
    const DAY_MS: Millis = 86_400_000;
    if !verdict.enough {
        return Decision::Wait(verdict.words.clone());
    }
    if !verdict.confirmed {
        return Decision::NotConfirmed;
    }
    let until = last_retrain.map(|t| t + rules.cool_down_days * DAY_MS);
    if let Some(until) = until.filter(|until| now < *until) {
        return Decision::CoolDown(format!(
            "the next retraining may begin {} days of data later",
            (until - now) / DAY_MS + 1
        ));
    }
    let days = (now - onset) / DAY_MS;
    if days < Millis::try_from(rules.min_new_days).unwrap_or(Millis::MAX) {
        return Decision::Wait(format!(
            "{days} days of data since the onset, {} are asked",
            rules.min_new_days
        ));
    }
    Decision::Retrain
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const DAY: Millis = 86_400_000;
    const PROMISE: Promise = Promise {
        mean: 0.0,
        std: 0.2,
        days: 60,
    };

    fn days(n: i64, level: f64) -> Vec<(Millis, f64)> {
        (0..n)
            .map(|i| (i * DAY, level * (0.15 * ((i * 7 % 5) as f64 - 2.0)).exp()))
            .collect()
    }

    fn fleet(n: i64, levels: &[f64]) -> Vec<DeviceDays> {
        levels
            .iter()
            .enumerate()
            .map(|(i, l)| DeviceDays {
                device: format!("d{i}"),
                days: days(n, *l),
            })
            .collect()
    }

    #[test]
    fn doubled_errors_are_confirmed_and_named() {
        let v = verdict(0, &fleet(14, &[2.0, 2.0, 1.9]), &PROMISE, &Rules::default());
        assert!(v.confirmed, "{}", v.words);
        assert!(
            v.words.contains("1970-01-01") && v.words.contains("d0"),
            "{}",
            v.words
        );
        assert_eq!(
            decide(&v, 0, 14 * DAY, None, &Rules::default()),
            Decision::Retrain
        );
    }

    #[test]
    fn calibrated_errors_are_not_and_few_days_wait() {
        let v = verdict(0, &fleet(20, &[1.0, 1.05]), &PROMISE, &Rules::default());
        assert_eq!(
            decide(&v, 0, 20 * DAY, None, &Rules::default()),
            Decision::NotConfirmed
        );
        let v = verdict(0, &fleet(3, &[5.0]), &PROMISE, &Rules::default());
        assert!(matches!(
            decide(&v, 0, 3 * DAY, None, &Rules::default()),
            Decision::Wait(_)
        ));
    }

    #[test]
    fn a_confirmed_drift_waits_for_data_and_for_the_cool_down() {
        let v = verdict(0, &fleet(8, &[3.0]), &PROMISE, &Rules::default());
        assert!(matches!(
            decide(&v, 0, 8 * DAY, None, &Rules::default()),
            Decision::Wait(_)
        ));
        assert!(matches!(
            decide(&v, 0, 20 * DAY, Some(10 * DAY), &Rules::default()),
            Decision::CoolDown(_)
        ));
    }
}
