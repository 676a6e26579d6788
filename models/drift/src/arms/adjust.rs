//! What was known of devices before: owns taking it out of their values, never a comparison.
//!
//! value - theta (before - mean before), theta = cov(before, value) / var(before) over both arms together (Deng, Xu, Kohavi and
//! Walker, 2013: CUPED). What was before cannot depend on the arm, so the difference of the arms' means stays what it
//! was on average, with less noise. theta does not see the arms, so that shuffling them leaves it.

use super::Outcome;

/// Fewest devices with a value from before: theta of fewer is more noise than it takes out.
const FEWEST: usize = 20;

/// Adjusted values in the same order; none where too little is known. A device of which nothing is known from before counts
/// as the mean of those of which there is.
pub(super) fn adjust(outcomes: &[Outcome]) -> Option<Vec<f64>> {
    let known: Vec<(f64, f64)> = outcomes
        .iter()
        .filter_map(|o| Some((o.before?, o.value)))
        .collect();
    let mean =
        |pick: fn(&(f64, f64)) -> f64| known.iter().map(pick).sum::<f64>() / known.len() as f64;
    let (x, y) = (mean(|k| k.0), mean(|k| k.1));
    let sum = |of: fn(f64, f64) -> f64| known.iter().map(|k| of(k.0 - x, k.1 - y)).sum::<f64>();
    let (xx, xy) = (sum(|x, _| x * x), sum(|x, y| x * y));
    if known.len() < FEWEST || xx <= 0.0 {
        return None;
    }
    let theta = xy / xx;
    let one = |o: &Outcome| o.value - theta * o.before.map_or(0.0, |b| b - x);
    Some(outcomes.iter().map(one).collect())
}
