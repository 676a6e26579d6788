//! Are the inputs of the running model still what it was trained on: owns each channel's open day; the statistics are
//! elsewhere. It warns, and never asks for training.

use fieldcast_drift::days::{DayFold, DayReference, DayScale};
use fieldcast_drift::inputs::{Aspect, InputEvent, InputMonitor};
use fieldcast_drift::reference::ReferenceStats;
use fieldcast_drift::run::RunReference;
use fieldcast_drift::run::channel::{DETECTOR, RowWatch};
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis};
use fieldcast_wire::{Sha256, pb};
use serde::{Deserialize, Serialize};

/// What one bundle says of an input's days.
#[derive(Debug, Clone, PartialEq)]
struct Expected {
    aspect: Aspect,
    reference: DayReference,
    /// The device's own scale; none where the bundle does not know it.
    scale: Option<DayScale>,
}

/// What is kept of an input over a restart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Input {
    day: DayFold,
    monitors: Vec<(Aspect, InputMonitor)>,
    #[serde(default)]
    rows: RowWatch,
    /// Comes with the bundle, which is loaded anew at each start.
    #[serde(skip)]
    expected: Vec<Expected>,
    /// The same of its rows; none where the bundle does not know the device.
    #[serde(skip)]
    run: Option<(RunReference, DayReference, DayScale)>,
}

/// Watches the inputs of one bundle; empty for a device's own baselines.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InputWatch {
    bundle: String,
    version: u64,
    period: Millis,
    inputs: Vec<Input>,
}

impl InputWatch {
    /// For a bundle with its reference statistics; `device` is whose scale is looked for in them. An input that they say
    /// nothing of is not watched.
    #[must_use]
    pub fn new(
        bundle: Sha256,
        version: u64,
        spec: &ForecasterSpec,
        reference: &ReferenceStats,
        device: &str,
    ) -> Self {
        let expected = |name: &String| {
            let Some(channel) = reference.channel(name) else {
                return Vec::new();
            };
            let fits = Aspect::ALL.map(|aspect| (aspect, channel.days(aspect)));
            let known = fits.into_iter().filter_map(|(aspect, fit)| {
                let reference = fit?.clone();
                let scale = reference.devices.get(device).copied();
                Some(Expected {
                    aspect,
                    // Only this device's scale is of use here, and a fleet's would stay in memory.
                    reference: DayReference {
                        devices: Default::default(),
                        ..reference
                    },
                    scale,
                })
            });
            known.collect()
        };
        let input = |name| {
            let expected: Vec<Expected> = expected(name);
            let run = reference
                .channel(name)
                .and_then(|channel| run(channel.rows.as_ref()?, &expected));
            Input {
                rows: RowWatch::default(),
                run,
                day: DayFold::default(),
                monitors: expected
                    .iter()
                    .map(|e| (e.aspect, InputMonitor::default()))
                    .collect(),
                expected,
            }
        };
        Self {
            bundle: bundle.to_string(),
            version,
            period: spec.period_ms(),
            inputs: spec.inputs.iter().map(input).collect(),
        }
    }

    /// Goes on with what `before` had seen, where it watched the same bundle.
    #[must_use]
    pub fn after(mut self, before: Self) -> Self {
        if self.bundle != before.bundle || self.inputs.len() != before.inputs.len() {
            return self;
        }
        for (new, old) in self.inputs.iter_mut().zip(before.inputs) {
            new.day = old.day;
            new.rows = old.rows;
            for (aspect, monitor) in &mut new.monitors {
                if let Some((_, seen)) = old.monitors.iter().find(|(a, _)| a == aspect) {
                    monitor.clone_from(seen);
                }
            }
        }
        self
    }

    /// Positions of the inputs that differ at present by their days; a sudden shift is told, and is no state.
    pub fn raised(&self) -> impl Iterator<Item = usize> {
        let differs = |input: &Input| input.monitors.iter().any(|(_, m)| m.is_raised());
        self.inputs
            .iter()
            .enumerate()
            .filter_map(move |(i, input)| differs(input).then_some(i))
    }

    /// Takes a row; signals come only on change, each with the position of its input.
    pub fn add(&mut self, row: &FeatureRow) -> Vec<(usize, pb::DriftSignal)> {
        let mut signals = Vec::new();
        let (period, version) = (self.period, self.version);
        for (i, input) in self.inputs.iter_mut().enumerate() {
            let value = row.value(i).unwrap_or(f64::NAN);
            if let Some((reference, days, scale)) = &input.run {
                let known = (reference, days, *scale);
                let event = input.rows.update(known, period, row.time, value);
                signals.extend(event.map(|event| (i, signal(&event, DETECTOR, version))));
            }
            let Some(day) = input.day.push(period, row.time, value) else {
                continue;
            };
            for e in &input.expected {
                let Some(value) = e.aspect.of(&day) else {
                    continue;
                };
                let monitor = input.monitors.iter_mut().find(|(a, _)| *a == e.aspect);
                let event =
                    monitor.and_then(|(_, m)| m.update(&e.reference, e.scale, day.day, value));
                signals
                    .extend(event.map(|event| (i, signal(&event, e.aspect.detector(), version))));
            }
        }
        signals
    }
}

/// What the rows are watched by, where the bundle says it and knows the device.
fn run(
    reference: &RunReference,
    expected: &[Expected],
) -> Option<(RunReference, DayReference, DayScale)> {
    let days = expected.iter().find(|e| e.aspect == Aspect::Mean)?;
    reference.validate().ok()?;
    Some((reference.clone(), days.reference.clone(), days.scale?))
}

fn signal(event: &InputEvent, detector: &str, version: u64) -> pb::DriftSignal {
    pb::DriftSignal {
        kind: pb::DriftKind::Covariate as i32,
        detector: detector.into(),
        statistic: event.statistic,
        threshold: event.threshold,
        severity: event.shift,
        time_ms: event.time,
        onset_ms: event.onset,
        raised: event.raised,
        model_version: version,
        data_count: event.days,
        ..pb::DriftSignal::default()
    }
}

#[cfg(test)]
#[path = "inputs_tests.rs"]
mod tests;
