//! Bad models on real agents, once each way: none comes past the canary, and each goes back for what is wrong with it.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_tests::rollouts::bad;

#[test]
fn no_bad_model_comes_past_a_canary_that_is_a_real_agent() {
    assert_eq!(bad(1).unwrap(), 6);
}
