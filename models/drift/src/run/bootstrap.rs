//! The threshold of a stated run time: owns the moving-block bootstrap of a reference's residuals, never the residuals' making.

use super::Sums;
use crate::stream::threshold_for;
use crate::window::random::Random;

/// Run times that are simulated for a threshold.
const RUNS: f64 = 1_000.0;
/// Rows that are simulated at most for a threshold.
const MOST_ROWS: f64 = 4e6;
/// Halvings of the interval that holds the threshold: to two thousandths of what independent normal values need.
const HALVINGS: usize = 10;

/// Residuals of a reference in deviations, and the length of the blocks that are drawn from them.
pub(super) struct Blocks<'a> {
    pub(super) residuals: &'a [f64],
    pub(super) length: usize,
    pub(super) seed: u64,
}

impl Blocks<'_> {
    /// The lowest threshold at which the mean run from one alarm to the next is at least `run_length`.
    pub(super) fn threshold(&self, k: f64, run_length: f64) -> f64 {
        let rows = (RUNS * run_length).min(MOST_ROWS);
        let most = (rows / run_length) as usize;
        let seldom = |h: f64| self.at_most(most, k, h, rows as usize);
        // Each side alarms half as often as both.
        let (mut low, mut high) = (0.0, 2.0 * threshold_for(2.0 * run_length, k, 1.0));
        while !seldom(high) && high < 1e6 {
            (low, high) = (high, 2.0 * high);
        }
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            if seldom(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        high
    }

    fn at_most(&self, most: usize, k: f64, h: f64, rows: usize) -> bool {
        let mut random = Random::new(self.seed);
        let (mut sums, mut alarms) = (Sums::default(), 0);
        let starts = self.residuals.len() - self.length + 1;
        let mut left = rows;
        while left > 0 {
            let start = random.below(starts);
            let block = &self.residuals[start..start + self.length.min(left)];
            for z in block {
                sums.add(*z, k);
                if sums.above(h) {
                    alarms += 1;
                    if alarms > most {
                        return false;
                    }
                    sums = Sums::default();
                }
            }
            left -= block.len();
        }
        true
    }
}
