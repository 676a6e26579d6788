//! The short form of the fault harness, in every test run: a minute of faults, nothing lost, nothing twice.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_tests::faults::{Plan, run};

const SEED: u64 = 5;

#[test]
fn nothing_is_lost_and_nothing_is_twice_under_faults() {
    let report = run(&Plan::short(SEED)).unwrap();
    println!("{report}");
    assert!(report.is_good(), "{report:?}");
    assert!(
        report.kills >= 8 && report.readings >= 10_000,
        "{report}: too little happened to prove anything"
    );
}

#[test]
fn nor_with_the_hubs_own_broker() {
    let plan = Plan {
        embedded_broker: true,
        ..Plan::short(SEED + 1)
    };
    let report = run(&plan).unwrap();
    println!("{report}");
    assert!(report.is_good(), "{report:?}");
    assert!(
        report.kills >= 8 && report.readings >= 10_000,
        "{report}: too little happened to prove anything"
    );
}
