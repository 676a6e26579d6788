//! What challengers may spend together: owns the shares, never the total.

use std::f64::consts::PI;

/// The share of `total` of the `nth` challenger (from 1; 0 counts as 1) of one champion's reign. All shares of a reign, however
/// many challengers it sees, sum to no more than the total, so that by Boole's inequality the chance of any wrong promotion
/// is at most it. They fall as 1 / n^2, slowly enough that the evidence asked for grows only by `2 ln n`.
#[must_use]
pub fn share(total: f64, nth: u32) -> f64 {
    let n = f64::from(nth.max(1));
    total * 6.0 / (PI * PI * n * n)
}
