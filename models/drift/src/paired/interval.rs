//! Bounds of the gain: owns the confidence sequence, never the decision.
//!
//! A gain is in the interval while bets on more, and on less, than it have not made 40 of 1: the inversion of the test
//! (Waudby-Smith and Ramdas, 2024, section 4). It may be looked at after each block.

use super::Gain;
use super::bets::Evidence;
use super::rows::CLIP;

/// Money that rules a gain out, as a logarithm: 40, a fortieth to each side.
const RULED_OUT: f64 = 3.688_879_454_113_936;
/// Halvings of the range of gains: to a millionth.
const HALVINGS: usize = 22;

/// Estimate and bounds; none without blocks.
pub(super) fn gain(values: &[f64], dependence: f64) -> Option<Gain> {
    if values.is_empty() {
        return None;
    }
    let ruled_out = |gain: f64, sign: f64| {
        let mut evidence = Evidence::new(dependence);
        let bets = values.iter().map(|v| evidence.bet(sign * (v - gain)));
        bets.last().is_some_and(|e| e >= RULED_OUT)
    };
    // The mean may be ruled out where the first blocks were unlike the others; it is not looked for beyond.
    let estimate = values.iter().sum::<f64>() / values.len() as f64;
    let bound = |sign: f64| {
        let (mut inside, mut outside) = (estimate, -sign * CLIP);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(inside, outside);
            if ruled_out(middle, sign) {
                outside = middle;
            } else {
                inside = middle;
            }
        }
        outside
    };
    Some(Gain {
        estimate,
        lower: bound(1.0),
        upper: bound(-1.0),
    })
}
