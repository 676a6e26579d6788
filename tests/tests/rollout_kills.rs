//! The short form of rollouts under kills, in every test run: each ends as it must, and every device runs the champion.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use fieldcast_tests::rollouts::{Kills, kills};

#[test]
fn rollouts_end_right_while_hub_worker_devices_and_agents_are_killed() {
    let plan = Kills {
        rollouts: 6,
        side_by_side: 2,
        seed: 3,
        every: Duration::from_secs(6),
    };
    let report = kills(plan).unwrap();
    println!("{report:?}");
    assert_eq!(report.ended, 6);
    assert!(
        (1..6).contains(&report.succeeded)
            && report.kills.iter().sum::<u32>() >= 2
            && report.kills[3] > 0,
        "{report:?}: too little happened to prove anything"
    );
}
