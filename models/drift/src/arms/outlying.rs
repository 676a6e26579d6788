//! Devices whose value alone decides the mean of their arm: owns who they are, never what is made of it.

use super::{Arm, Outcome};

/// So many deviations from the median, by the median distance from it; of a normal arm that is nobody.
const FAR: f64 = 10.0;
/// The median distance of normal values is this share of their deviation.
const NORMAL: f64 = 0.6745;

/// The places of outcomes that are far from the median of their arm. Nobody where half of an arm's values are the same.
#[must_use]
pub fn outlying(outcomes: &[Outcome]) -> Vec<usize> {
    let mut found: Vec<usize> = [Arm::A, Arm::B]
        .into_iter()
        .flat_map(|arm| {
            let of = || outcomes.iter().enumerate().filter(move |o| o.1.arm == arm);
            let middle = median(of().map(|o| o.1.value).collect()).unwrap_or(0.0);
            let far = move |o: &Outcome| (o.value - middle).abs();
            let spread = median(of().map(|o| far(o.1)).collect()).unwrap_or(0.0);
            of().filter(move |o| spread > 0.0 && far(o.1) > FAR * spread / NORMAL)
                .map(|o| o.0)
        })
        .collect();
    found.sort_unstable();
    found
}

/// The middle value; of an even number the upper one of the two. None of nothing.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    Some(*values.select_nth_unstable_by(middle, f64::total_cmp).1)
}
