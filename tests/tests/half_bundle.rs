//! A bundle whose download a power cut stops, on a real agent: after it only what is missing is fetched.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_tests::rollouts::half_a_bundle;

#[test]
fn what_was_there_before_a_power_cut_is_not_fetched_again() {
    half_a_bundle().unwrap();
}
