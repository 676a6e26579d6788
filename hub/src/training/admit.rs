//! Whether a retraining may go on: owns the rules on its snapshot and on what asked for it as pure functions, never reads data.

use std::collections::BTreeMap;

use fieldcast_features::{FeatureRow, ForecasterSpec, Millis};

use super::snapshot::DeviceRows;
use crate::drift::verdict::DeviceVerdict;
use crate::triggers::policy::Policy;

/// With fewer devices there is no telling which of them is the odd one.
const FEWEST_DEVICES: usize = 3;

/// Why a retraining is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Too little of what the snapshot should hold is usable.
    #[error(
        "refused: {good} of {of} values on the grid are good ({:.1} %; fewest on `{worst}`: {:.1} %), {:.1} % are asked; mend \
         or map the sensors, or lower `retraining.min_quality`",
        100.0 * share(*.good, *.of), 100.0 * .worst_share, 100.0 * .asked
    )]
    Quality {
        /// Values of target and inputs that are there.
        good: u64,
        /// Values that the grid has room for.
        of: u64,
        /// The device with the smallest share.
        worst: String,
        /// Its share.
        worst_share: f64,
        /// The smallest share that is allowed.
        asked: f64,
    },
    /// Nothing that repeats can be told from what does not.
    #[error(
        "refused: no device has more than {steps} values of `{target}`, two seasons are {asked}; wait for readings, or import \
         history (`fieldcast-hub import`)"
    )]
    Seasons {
        /// Target of the forecaster.
        target: String,
        /// Most values of the target on one device.
        steps: u64,
        /// Two seasons.
        asked: u64,
    },
    /// One device's change would change the model of all.
    #[error(
        "refused: {:.1} % of what speaks for a change comes from `{device}` ({days} days, errors {ratio:.2} times the usual), \
         without it the errors of the other {} devices are {others:.2} times the usual, where a change is {:.2} and more, and at \
         most {:.1} % may come from one; look at that device, or raise `retraining.max_device_share`",
        100.0 * .share, .devices - 1, .least, 100.0 * .allowed
    )]
    OneDevice {
        /// Whose change it is.
        device: String,
        /// Its closed days since the onset.
        days: usize,
        /// Its errors over the usual ones.
        ratio: f64,
        /// Its part of the evidence.
        share: f64,
        /// Devices that were judged.
        devices: usize,
        /// Errors of the others over the usual ones.
        others: f64,
        /// From where on that is a change.
        least: f64,
        /// The largest part that is allowed.
        allowed: f64,
    },
}

fn share(good: u64, of: u64) -> f64 {
    good as f64 / of.max(1) as f64
}

/// What one device has of a forecaster's channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    good: u64,
    of: u64,
    target: u64,
}

/// Counts over the grid from the first row to the last. A hole that no window spans parts the data as it does in training, and
/// is no part of the grid: the device was away, or told of another time.
fn counts(spec: &ForecasterSpec, rows: &[FeatureRow]) -> Counts {
    let (period, channels) = (spec.period_ms().max(1), spec.channels().len());
    let longest = Millis::try_from(spec.lookback + spec.horizon).unwrap_or(Millis::MAX / period);
    let by_time: BTreeMap<Millis, &FeatureRow> = rows.iter().map(|r| (r.time, r)).collect();
    let mut counts = Counts::default();
    let (mut steps, mut before) = (0, None);
    for (time, row) in by_time {
        let apart = before.map_or(1, |before| (time - before) / period);
        steps += u64::try_from(if apart > longest { 1 } else { apart }).unwrap_or(1);
        before = Some(time);
        counts.good += row.values.iter().filter(|v| v.is_finite()).count() as u64;
        counts.target += u64::from(row.value(spec.target_channel()).is_some());
    }
    counts.of = steps * channels as u64;
    counts
}

/// Whether the snapshot is good enough to learn from.
///
/// # Errors
/// The first rule that it breaks.
pub fn snapshot(
    spec: &ForecasterSpec,
    data: &[DeviceRows],
    policy: &Policy,
) -> Result<(), Refusal> {
    let all: Vec<(&str, Counts)> = data
        .iter()
        .map(|d| (d.device.as_str(), counts(spec, &d.rows)))
        .collect();
    let (good, of) = all
        .iter()
        .fold((0, 0), |sum, (_, c)| (sum.0 + c.good, sum.1 + c.of));
    let shares = all.iter().map(|(name, c)| (*name, share(c.good, c.of)));
    let (worst, worst_share) = shares
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or(("", 0.0));
    if share(good, of) < policy.min_quality {
        return Err(Refusal::Quality {
            good,
            of,
            worst: worst.to_owned(),
            worst_share,
            asked: policy.min_quality,
        });
    }
    let steps = all.iter().map(|(_, c)| c.target).max().unwrap_or(0);
    let asked = 2 * spec.season_steps() as u64;
    if steps < asked {
        return Err(Refusal::Seasons {
            target: spec.target.clone(),
            steps,
            asked,
        });
    }
    Ok(())
}

/// Whether the change that asks for a retraining is more than one device's: where most of what speaks for it comes from one, the
/// others must show it without that one, from `least` times their usual errors on. What a device says grows with its days and with
/// the logarithm of its errors over the usual ones.
///
/// # Errors
/// The device that stands alone.
pub fn change(devices: &[DeviceVerdict], least: f64, policy: &Policy) -> Result<(), Refusal> {
    let says = |d: &DeviceVerdict| d.days as f64 * d.ratio.ln().max(0.0);
    let Some(first) = devices.iter().max_by(|a, b| says(a).total_cmp(&says(b))) else {
        return Ok(());
    };
    let share = says(first) / devices.iter().map(says).sum::<f64>();
    let rest = devices.iter().filter(|d| d.device != first.device);
    let (sum, days) = rest.fold((0.0, 0.0), |(sum, days), d| {
        let own = d.days as f64;
        (sum + own * d.ratio.ln(), days + own)
    });
    let others = (sum / days).exp();
    if devices.len() < FEWEST_DEVICES
        || others >= least
        || share.is_nan()
        || share <= policy.max_device_share
    {
        return Ok(());
    }
    Err(Refusal::OneDevice {
        device: first.device.clone(),
        days: first.days,
        ratio: first.ratio,
        share,
        devices: devices.len(),
        others,
        least,
        allowed: policy.max_device_share,
    })
}

#[cfg(test)]
#[path = "admit_tests.rs"]
mod tests;
