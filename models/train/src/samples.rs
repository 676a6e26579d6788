//! Which origins are used for what: owns usability, the chronological split and thinning, never a window's numbers.

use fieldcast_features::Millis;

use crate::data::Panel;
use crate::{Split, TrainConfig, TrainError};

/// Fewest origins that select or calibrate; a quantile of 97.5 % needs about 40 residuals.
const FEWEST: usize = 20;
/// Fewest origins that weights are learnt from.
const FEWEST_TRAIN: usize = 60;

/// One window of one track.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) track: usize,
    /// Row of the window's last step.
    pub(crate) origin: usize,
    /// How often it counts in training.
    pub(crate) weight: f32,
}

/// The three chronological parts; no target step belongs to two of them.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) train: Vec<Sample>,
    pub(crate) select: Vec<Sample>,
    pub(crate) calibrate: Vec<Sample>,
    pub(crate) split: Split,
}

/// Splits all usable origins of all devices at two common times.
pub(crate) fn split(panel: &Panel, config: &TrainConfig) -> Result<Parts, TrainError> {
    let mut all: Vec<(Millis, Sample)> = usable(panel, config).collect();
    all.sort_by_key(|(time, s)| (*time, s.track));
    check_count(panel, config, all.len())?;
    let (select_from, calibrate_from) = cuts(config, &all);
    let reach = panel.horizon as Millis * panel.period;
    let part = |from: Millis, until: Millis| -> Vec<Sample> {
        let inside =
            |(time, _): &&(Millis, Sample)| *time >= from && time.saturating_add(reach) <= until;
        all.iter().filter(inside).map(|(_, s)| *s).collect()
    };
    let train = part(Millis::MIN, select_from);
    let select = part(select_from, calibrate_from);
    let calibrate = part(calibrate_from, Millis::MAX);
    for (part, found, needed) in [
        ("train", train.len(), FEWEST_TRAIN),
        ("select", select.len(), FEWEST),
        ("calibrate", calibrate.len(), FEWEST),
    ] {
        if found < needed {
            return Err(TrainError::PartTooSmall {
                part,
                found,
                needed,
            });
        }
    }
    let split = Split {
        train_from: all[0].0,
        select_from,
        calibrate_from,
        until: all[all.len() - 1].0,
        train_windows: train.len(),
        select_windows: select.len(),
        calibrate_windows: calibrate.len(),
    };
    // Outcomes of these parts are kept in memory, a value a horizon step.
    let few = (config.max_windows / 4).min(4_000_000 / panel.horizon);
    let train = thin(train, config.max_windows);
    Ok(Parts {
        train,
        select: thin(select, few),
        calibrate: thin(calibrate, few),
        split,
    })
}

/// First origins of the selection and the calibration part.
fn cuts(config: &TrainConfig, all: &[(Millis, Sample)]) -> (Millis, Millis) {
    let at = |share: f64| all[((all.len() as f64 * share) as usize).min(all.len() - 1)].0;
    let Some(select_from) = config.select_from else {
        let both = config.train_share + config.select_share;
        return (
            at(config.train_share),
            config.calibrate_from.unwrap_or_else(|| at(both)),
        );
    };
    let before = all.partition_point(|(time, _)| *time < select_from) as f64 / all.len() as f64;
    let middle = || at((1.0 + before) / 2.0);
    (select_from, config.calibrate_from.unwrap_or_else(middle))
}

fn usable<'p>(
    panel: &'p Panel,
    config: &'p TrainConfig,
) -> impl Iterator<Item = (Millis, Sample)> + 'p {
    panel
        .tracks
        .iter()
        .enumerate()
        .flat_map(move |(index, track)| {
            let last = track.rows().saturating_sub(panel.horizon);
            (panel.lookback - 1..last).filter_map(move |origin| {
                let first = origin + 1 - panel.lookback;
                let seen =
                    |before: &[u32], from: usize, to: usize| (before[to] - before[from]) as usize;
                let inputs = seen(&track.inputs_before, first, origin + 1);
                let past = seen(&track.target_before, first, origin + 1);
                // The rules of `WindowBuilder::at`.
                let window = if panel.tolerant {
                    2 * inputs >= panel.lookback * panel.inputs
                        && past >= panel.lookback.div_ceil(2)
                } else {
                    inputs == panel.lookback * panel.inputs
                };
                let ahead = 2 * seen(&track.target_before, origin + 1, origin + 1 + panel.horizon)
                    >= panel.horizon;
                let time = track.start + origin as Millis * panel.period;
                let reach = panel.horizon as Millis * panel.period;
                let kept = config
                    .unseen
                    .iter()
                    .any(|(from, until)| time < *until && time + reach >= *from);
                let recent = panel.weight_from[track.series].is_some_and(|from| time > from);
                let weight = if recent { config.recent_weight } else { 1.0 };
                (window && ahead && !kept).then_some((
                    time,
                    Sample {
                        track: index,
                        origin,
                        weight,
                    },
                ))
            })
        })
}

/// On one device each part loses a horizon of origins to the gap behind it.
fn check_count(panel: &Panel, config: &TrainConfig, found: usize) -> Result<(), TrainError> {
    let smallest = config
        .select_share
        .min(1.0 - config.train_share - config.select_share);
    let gap = panel.horizon as f64;
    let for_small = (FEWEST as f64 + gap) / smallest;
    let for_train = (FEWEST_TRAIN as f64 + gap) / config.train_share;
    let needed = for_small.max(for_train).ceil() as usize;
    if found >= needed {
        return Ok(());
    }
    Err(TrainError::TooFewRows {
        rows: panel.given,
        found,
        needed,
        horizon: panel.horizon,
        lookback: panel.lookback,
        rows_needed: needed + panel.lookback + panel.horizon - 1,
    })
}

/// Keeps at most `most`, evenly spread.
fn thin(samples: Vec<Sample>, most: usize) -> Vec<Sample> {
    let n = samples.len();
    if n <= most {
        return samples;
    }
    (0..most).map(|i| samples[i * n / most]).collect()
}
