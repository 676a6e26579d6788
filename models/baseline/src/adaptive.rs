//! Intervals that learn from what they missed: owns their widening and narrowing while forecasts come true, never a forecast.
//!
//! Split-conformal intervals promise their coverage for data like that of the calibration; a season later they may be too
//! narrow or too wide. Here each quantile of each step ahead keeps a factor on its distance from the median, moved by online
//! quantile tracking (Gibbs and Candès, 2021, in logarithms): a miss widens, everything else narrows, in the ratio that
//! balances at the quantile's level. The two ends of an interval learn from each other's misses, too: mostly both are too narrow, or
//! both too wide, and two see more than one. A step learns only when its own actual value has come, so that nothing is known early.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// How far one observation moves the logarithm of a factor, at most, once many have been seen.
pub const RATE: f64 = 0.01;
/// The same for all the observations of as many origins as a step lies ahead.
pub const FAR_RATE: f64 = 0.2;
/// From so many steps ahead on the second is the lesser one (`FAR_RATE / RATE`): so many neighbouring origins share an error.
pub const SHARED: usize = 20;
/// What an end of an interval learns from the other end's misses, as a share.
const OTHER: f64 = 0.45;
/// The first observations move a factor by so much more: a calibration is more often off by a season than by a day.
const EARLY: f64 = 2.0;
/// After so many windows that share no step, half of that.
const EARLY_WINDOWS: f64 = 5.0;
/// Factors stay between `e^-LIMIT` and `e^LIMIT`.
pub const LIMIT: f64 = 2.0;

/// The factors of one device and forecaster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adaptive {
    levels: Vec<f64>,
    /// `[H, Q]`: logarithm of the factor on a quantile's distance from the median.
    log_factor: Vec<f64>,
    /// `[H]`: actual values learnt from.
    #[serde(default)]
    seen: Vec<u32>,
}

impl Adaptive {
    /// Starts with the intervals as they were calibrated. `levels` ascend and hold 0.5.
    #[must_use]
    pub fn new(levels: &[f64], horizon: usize) -> Self {
        Self {
            levels: levels.to_vec(),
            log_factor: vec![0.0; levels.len() * horizon],
            seen: vec![0; horizon],
        }
    }

    /// The levels of its quantiles.
    #[must_use]
    pub fn levels(&self) -> &[f64] {
        &self.levels
    }

    /// Whether this is a state that forecasts of these levels and so many steps can have led to. One that was read from
    /// somewhere need not be.
    #[must_use]
    pub fn fits(&self, levels: &[f64], horizon: usize) -> bool {
        self.levels == levels
            && levels.len().checked_mul(horizon) == Some(self.log_factor.len())
            && self.seen.len() == horizon
            && self.log_factor.iter().all(|l| l.abs() <= LIMIT)
    }

    /// The quantiles `[H, Q]` as they should be shown now; unchanged where the sizes are not this one's. Never crossing.
    #[must_use]
    pub fn applied(&self, quantiles: &[f64]) -> Vec<f64> {
        let (q, middle) = (self.levels.len(), self.median());
        if quantiles.len() != self.log_factor.len() || q == 0 {
            return quantiles.to_vec();
        }
        let rows = quantiles
            .chunks_exact(q)
            .zip(self.log_factor.chunks_exact(q));
        let mut out = Vec::with_capacity(quantiles.len());
        for (row, logs) in rows {
            let median = row[middle];
            let from = out.len();
            out.extend(
                row.iter()
                    .zip(logs)
                    .map(|(v, l)| median + (v - median) * l.exp()),
            );
            let shown = &mut out[from..];
            // A factor of its own for each level could let an inner quantile pass an outer one.
            for i in (0..middle).rev() {
                shown[i] = shown[i].min(shown[i + 1]);
            }
            for i in middle + 1..q {
                shown[i] = shown[i].max(shown[i - 1]);
            }
        }
        out
    }

    /// Learns that step `step` (0 is the first ahead) of a forecast came out as `actual`; `shown` are that step's quantiles
    /// `[Q]` as [`Self::applied`] gave them. Anything that is not finite teaches nothing.
    pub fn learn(&mut self, step: usize, shown: &[f64], actual: f64) {
        let (q, middle) = (self.levels.len(), self.median());
        let Some(logs) = self.log_factor.get_mut(step * q..(step + 1) * q) else {
            return;
        };
        if !actual.is_finite() || shown.len() != q {
            return;
        }
        self.seen.resize(self.seen.len().max(step + 1), 0);
        // Windows that share no step.
        let windows = f64::from(self.seen[step]) / (step + 1) as f64;
        let rate = rate(step, windows);
        self.seen[step] = self.seen[step].saturating_add(1);
        let missed = |i: usize| match i.cmp(&middle) {
            Ordering::Less => f64::from(u8::from(actual < shown[i])),
            Ordering::Equal => 0.0,
            Ordering::Greater => f64::from(u8::from(actual > shown[i])),
        };
        for (i, (level, log)) in self.levels.iter().zip(logs).enumerate() {
            if i == middle {
                continue;
            }
            let allowed = level.min(1.0 - level);
            let misses = match complement(&self.levels, i) {
                Some(other) => (1.0 - OTHER) * missed(i) + OTHER * missed(other),
                None => missed(i),
            };
            // What few windows taught misses more often than they did: the order statistics' n / (n + 1).
            let moved = misses - allowed * (windows + 1.0) / (windows + 2.0);
            // A rare miss must weigh as much as the many hits between two of them, whatever the level.
            *log = (*log + rate * moved / allowed.max(0.05).sqrt()).clamp(-LIMIT, LIMIT);
        }
    }

    fn median(&self) -> usize {
        let at = self.levels.iter().position(|l| *l >= 0.5);
        at.unwrap_or(self.levels.len().saturating_sub(1))
    }
}

/// Where the level is that bounds the same central interval.
fn complement(levels: &[f64], i: usize) -> Option<usize> {
    let is_other = |level: &f64| (level + levels[i] - 1.0).abs() < 1e-9;
    levels.iter().position(is_other)
}

/// How far an observation of step `step` moves a factor after so many windows that share no step: neighbouring forecasts of a far step
/// share one error for about as many origins as the step lies ahead.
fn rate(step: usize, windows: f64) -> f64 {
    let early = 1.0 + EARLY / (1.0 + windows / EARLY_WINDOWS);
    RATE.min(FAR_RATE / (step + 1) as f64) * early
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEVELS: [f64; 5] = [0.025, 0.1, 0.5, 0.9, 0.975];

    /// Evenly spread in (-1, 1), in no order.
    fn noise(i: usize) -> f64 {
        2.0 * (i as f64 * 0.618_033_988_749_895).fract() - 1.0
    }

    #[test]
    fn intervals_that_are_too_narrow_or_too_wide_come_to_their_coverage() {
        for scale in [0.4, 1.0, 2.5] {
            let mut adaptive = Adaptive::new(&LEVELS, 1);
            let calibrated = [-0.95, -0.8, 0.0, 0.8, 0.95];
            let (mut inside, mut count) = (0.0, 0.0);
            for i in 0..4_000 {
                let shown = adaptive.applied(&calibrated);
                let actual = scale * noise(i);
                if i >= 500 {
                    count += 1.0;
                    inside += f64::from(u8::from(shown[1] <= actual && actual <= shown[3]));
                }
                adaptive.learn(0, &shown, actual);
            }
            assert!(
                (inside / count - 0.8_f64).abs() < 0.01,
                "{scale}: {}",
                inside / count
            );
        }
    }

    #[test]
    fn a_step_learns_from_its_own_actual_values_only() {
        let mut adaptive = Adaptive::new(&LEVELS, 2);
        let row = [-2.0, -1.0, 0.0, 1.0, 2.0];
        adaptive.learn(1, &row, 9.0);
        adaptive.learn(7, &row, 9.0);
        adaptive.learn(0, &row, f64::NAN);
        let shown = adaptive.applied(&[row, row].concat());
        assert_eq!(shown[..5], row);
        assert!(
            shown[8] > 1.0 && shown[6] < -1.0 && shown[8] > -shown[6],
            "wider, and more so where it was missed: {shown:?}"
        );
        assert_eq!(adaptive.applied(&row), row, "other sizes are left alone");
    }

    #[test]
    fn a_week_of_one_far_error_moves_a_factor_no_further_than_a_hundred_hours_of_near_ones() {
        let row = [-2.0, -1.0, 0.0, 1.0, 2.0];
        let after = |step: usize, misses: usize| {
            let mut adaptive = Adaptive::new(&LEVELS, 168);
            (0..misses).for_each(|_| adaptive.learn(step, &row, 9.0));
            adaptive.applied(&row.repeat(168))[step * 5 + 3]
        };
        assert!(after(167, 168) < after(0, 100));
        assert!(after(167, 168) > 1.1, "it still learns");
    }

    #[test]
    fn an_end_that_is_never_missed_comes_nearer_although_the_other_one_is_missed() {
        let mut adaptive = Adaptive::new(&LEVELS, 1);
        let calibrated = [-0.95, -0.8, 0.0, 0.8, 0.95];
        let sides =
            |shown: &[f64], i: usize| (noise(i) + 0.4 < shown[1], noise(i) + 0.4 > shown[3]);
        let (mut below, mut above) = (0, 0);
        for i in 0..6_000 {
            let shown = adaptive.applied(&calibrated);
            if i >= 2_000 {
                let (low, high) = sides(&shown, i);
                (below, above) = (below + u32::from(low), above + u32::from(high));
            }
            adaptive.learn(0, &shown, noise(i) + 0.4);
        }
        let shares = [below, above].map(|n| f64::from(n) / 4_000.0);
        assert!(shares.iter().all(|s| (s - 0.1).abs() < 0.02), "{shares:?}");
    }

    #[test]
    fn a_level_without_its_complement_learns_alone() {
        let mut adaptive = Adaptive::new(&[0.1, 0.5, 0.8], 1);
        adaptive.learn(0, &[-1.0, 0.0, 1.0], 9.0);
        let shown = adaptive.applied(&[-1.0, 0.0, 1.0]);
        assert!(shown[2] > 1.0 && shown[0] > -1.0, "{shown:?}");
    }

    #[test]
    fn a_state_fits_its_own_levels_and_steps_only() {
        let mut adaptive = Adaptive::new(&LEVELS, 2);
        adaptive.learn(1, &[-2.0, -1.0, 0.0, 1.0, 2.0], 9.0);
        assert!(adaptive.fits(&LEVELS, 2));
        assert!(!adaptive.fits(&LEVELS[..4], 2) && !adaptive.fits(&LEVELS, 3));
        adaptive.log_factor[3] = f64::NAN;
        assert!(!adaptive.fits(&LEVELS, 2));
    }

    #[test]
    fn origins_share_an_error_from_where_the_far_rate_is_the_lesser_one() {
        assert!((SHARED as f64 - FAR_RATE / RATE).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn quantiles_never_cross(actuals in proptest::collection::vec(-5.0..5.0_f64, 1..300)) {
            let mut adaptive = Adaptive::new(&LEVELS, 1);
            for actual in actuals {
                let shown = adaptive.applied(&[-1.1, -1.0, 0.0, 0.2, 0.3]);
                prop_assert!(shown.windows(2).all(|w| w[0] <= w[1]), "{:?}", shown);
                adaptive.learn(0, &shown, actual);
            }
        }
    }
}
