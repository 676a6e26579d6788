//! What numbers of devices can show: owns the smallest effect that is likely found, and whether two arms are as large as
//! they were drawn; never an outcome.

use crate::special::{binomial_two_sided, fisher_two_sided, student_critical};

/// The difference that is found with probability `power` at confidence `level`, where devices' values deviate by `deviation`:
/// none below two devices in each arm.
#[must_use]
pub fn detectable(deviation: f64, (a, b): (usize, usize), level: f64, power: f64) -> Option<f64> {
    if a < 2 || b < 2 {
        return None;
    }
    let freedom = (a + b - 2) as f64;
    let ts =
        student_critical(1.0 - level, freedom) + student_critical(2.0 * (1.0 - power), freedom);
    Some(ts * deviation * (1.0 / a as f64 + 1.0 / b as f64).sqrt())
}

/// How likely arms drawn with `share_b` are at least as uneven as these: below a thousandth something other than chance chose
/// who is in them.
#[must_use]
pub fn imbalance((a, b): (usize, usize), share_b: f64) -> f64 {
    binomial_two_sided(b as u64, (a + b) as u64, share_b)
}

/// How likely arms that lose devices alike lose at least as unlike shares: lost and all of A, lost and all of B.
#[must_use]
pub fn unlike_losses(a: (usize, usize), b: (usize, usize)) -> f64 {
    let of = |(lost, all): (usize, usize)| (lost as u64, all as u64);
    fisher_two_sided(of(a), of(b))
}
