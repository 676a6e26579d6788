//! Is the running model worse than it was when it was calibrated: owns the sums of a day and which forecasts are in them; the
//! statistics are elsewhere.

use std::collections::BTreeSet;

use fieldcast_drift::monitor::{ErrorCalibration, ErrorEvent, ErrorMonitor, RUN_DAYS};
use fieldcast_features::Millis;
use fieldcast_wire::{Sha256, pb};
use serde::{Deserialize, Serialize};

/// Watches one bundle's daily error; empty for a device's own baselines.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorWatch {
    bundle: String,
    version: u64,
    day_ms: Millis,
    monitor: Option<ErrorMonitor>,
    day: Option<Millis>,
    sum: f64,
    count: u32,
    days: u64,
    /// Origins of waiting forecasts that were made from less than the calibration's.
    #[serde(default)]
    passed_over: BTreeSet<Millis>,
}

impl ErrorWatch {
    /// For a bundle whose calibration is known. `day_ms` is the span whose mean absolute error is one value.
    #[must_use]
    pub fn new(
        bundle: Sha256,
        version: u64,
        day_ms: Millis,
        calibration: Option<&ErrorCalibration>,
    ) -> Self {
        let monitor = calibration.and_then(|c| match ErrorMonitor::new(c, RUN_DAYS) {
            Ok(monitor) => Some(monitor),
            Err(e) => {
                tracing::warn!(bundle = %bundle, "{e}; the model is not watched for drift");
                None
            }
        });
        Self {
            bundle: bundle.to_string(),
            version,
            day_ms: day_ms.max(1),
            monitor,
            ..Self::default()
        }
    }

    /// Whether both watch the same bundle.
    #[must_use]
    pub fn same_model(&self, other: &Self) -> bool {
        self.bundle == other.bundle && self.monitor.is_some() == other.monitor.is_some()
    }

    /// Whether drift is signalled at present.
    #[must_use]
    pub fn raised(&self) -> bool {
        self.monitor.as_ref().is_some_and(ErrorMonitor::is_raised)
    }

    /// The forecast from `origin` was made from less of the past than the calibration's: its errors say nothing of the model.
    pub fn pass_over(&mut self, origin: Millis) {
        self.passed_over.insert(origin);
    }

    /// Whether the errors of the forecast from `origin` are to be added.
    #[must_use]
    pub fn judges(&self, origin: Millis) -> bool {
        !self.passed_over.contains(&origin)
    }

    /// Forgets forecasts from `origin` and before it, whose actual values have come.
    pub fn expire(&mut self, origin: Millis) {
        self.passed_over.retain(|o| *o > origin);
    }

    /// Absolute errors of `count` forecast steps that met their actual at `time`; a signal comes only on change.
    pub fn add(&mut self, time: Millis, sum: f64, count: u32) -> Option<pb::DriftSignal> {
        let day_ms = self.day_ms.max(1);
        // A day ends with the row at its midnight, which holds what was measured before it.
        let day = (time - 1).div_euclid(day_ms);
        let mut event = None;
        if let Some(open) = self.day
            && day > open
        {
            let error = self.sum / f64::from(self.count.max(1));
            let end = (open + 1) * day_ms;
            self.days += 1;
            event = self.monitor.as_mut().and_then(|m| m.update(end, error));
            (self.sum, self.count) = (0.0, 0);
        }
        self.day = Some(day);
        self.sum += sum;
        self.count += count;
        event.map(|event| self.signal(event))
    }

    fn signal(&self, event: ErrorEvent) -> pb::DriftSignal {
        let base = pb::DriftSignal {
            kind: pb::DriftKind::Concept as i32,
            detector: "cusum_log_mae".into(),
            threshold: self.monitor.as_ref().map_or(0.0, ErrorMonitor::threshold),
            model_version: self.version,
            data_count: self.days,
            ..pb::DriftSignal::default()
        };
        match event {
            ErrorEvent::Raised(s) => pb::DriftSignal {
                statistic: s.statistic,
                threshold: s.threshold,
                severity: s.severity,
                time_ms: s.time,
                onset_ms: s.onset,
                raised: true,
                data_count: s.days,
                ..base
            },
            ErrorEvent::Cleared { time } => pb::DriftSignal {
                time_ms: time,
                onset_ms: time,
                severity: 1.0,
                raised: false,
                ..base
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn larger_errors_raise_one_signal_and_its_end_another() {
        let days: Vec<f64> = (0..60).map(|i| 10.0 + f64::from(i % 7)).collect();
        let calibration = ErrorCalibration::from_daily(&days).unwrap();
        let mut watch = ErrorWatch::new(Sha256::of(b"x"), 3, 24, Some(&calibration));
        let mut signals = Vec::new();
        for hour in 1..=24 * 200_i64 {
            let drifted = (24 * 100..24 * 120).contains(&hour);
            let error = if drifted {
                40.0
            } else {
                10.0 + f64::from(i32::try_from(hour / 24 % 7).unwrap())
            };
            signals.extend(watch.add(hour, 24.0 * error, 24));
            watch = serde_json::from_slice(&serde_json::to_vec(&watch).unwrap()).unwrap();
        }
        assert_eq!(
            signals.iter().map(|s| s.raised).collect::<Vec<_>>(),
            [true, false],
            "{signals:?}"
        );
        assert!(signals[0].time_ms > 24 * 100 && signals[0].time_ms < 24 * 110);
        assert!(signals[0].severity > 1.5 && signals[0].model_version == 3);
        assert!(!watch.raised());
    }
}
