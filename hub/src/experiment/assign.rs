//! Who gets which version: owns the draw, never who may join.
//!
//! Each device is drawn by itself, by a hash of experiment and device: the same on every hub, whenever it joins and whoever else
//! does. Strata would need to know all devices beforehand; what they would gain comes from each device's own past instead.

use fieldcast_drift::arms::Arm;
use fieldcast_wire::Sha256;

/// The arm of a device.
#[must_use]
pub fn arm(experiment: i64, device: &str, share_b: f64) -> Arm {
    let digest = Sha256::of(format!("experiment {experiment}/{device}").as_bytes());
    let [a, b, c, d, ..] = digest.0;
    if f64::from(u32::from_le_bytes([a, b, c, d])) < share_b * 2f64.powi(32) {
        Arm::B
    } else {
        Arm::A
    }
}

#[cfg(test)]
mod tests {
    use fieldcast_drift::special::binomial_two_sided;
    use proptest::prelude::*;

    use super::*;

    fn in_b(experiment: i64, names: &[String], share: f64) -> u64 {
        names
            .iter()
            .filter(|n| arm(experiment, n, share) == Arm::B)
            .count() as u64
    }

    proptest! {
        #[test]
        fn the_share_is_held_and_the_draw_of_one_experiment_says_nothing_of_another(
            experiment in 1_i64..1_000_000, share in 0.1_f64..0.9, prefix in "[a-z]{1,8}",
        ) {
            let names: Vec<String> = (0..2_000).map(|n| format!("{prefix}-{n}")).collect();
            let found = in_b(experiment, &names, share);
            prop_assert!(binomial_two_sided(found, 2_000, share) > 1e-6, "{found}");
            // Of those that were drawn into B, the next experiment draws the same share.
            let (again, _): (Vec<_>, Vec<_>) =
                names.into_iter().partition(|n| arm(experiment, n, share) == Arm::B);
            let found = in_b(experiment + 1, &again, share);
            prop_assert!(binomial_two_sided(found, again.len() as u64, share) > 1e-6, "{found}");
        }

        #[test]
        fn a_larger_share_takes_nobody_out_of_b(experiment in 1_i64..1_000, device in "[a-z0-9-]{1,20}") {
            let arms: Vec<Arm> = (1..10).map(|s| arm(experiment, &device, f64::from(s) / 10.0)).collect();
            prop_assert!(arms.is_sorted(), "{arms:?}");
        }
    }
}
