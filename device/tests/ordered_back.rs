//! A device that is ordered back to the model of before: it stays there, however quick the one was that is taken back.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_device::pace::{Terms, Took};
use fieldcast_device::update::{Event, Installed, Machine, Output, Phase, Target};

const TERMS: Terms = Terms {
    probation: 3,
    budget_us: 100_000,
    floor_us: 10_000,
};
/// What forecasts of the first model and of the second take.
const SLOW_US: u32 = 60_000;
const QUICK_US: u32 = 1_000;

fn bundle(version: u64) -> Installed {
    Installed {
        sha: format!("{version:064x}"),
        version,
    }
}

fn step(machine: &mut Machine, event: Event) -> Vec<Output> {
    machine.step(event, &TERMS)
}

/// Orders a version and lets it make its forecasts.
fn install(machine: &mut Machine, version: u64, generation: u64, us: u32) {
    let sha = bundle(version).sha;
    let target = Target {
        bundle: Some(bundle(version)),
        size: 9,
        shadow: false,
        generation,
        attempt: 1,
        expires: i64::MAX,
    };
    step(machine, Event::Ordered(target));
    step(machine, Event::Fetched(sha.clone()));
    step(machine, Event::Loaded(sha.clone()));
    for _ in 0..40 {
        let took = Took { us, golden_us: 0 };
        step(machine, Event::Forecasted(sha.clone(), took));
    }
}

fn ordered_back() -> Machine {
    let mut machine = Machine::default();
    install(&mut machine, 1, 1, SLOW_US);
    install(&mut machine, 2, 2, QUICK_US);
    assert_eq!(machine.last_good, Some(bundle(2)));
    install(&mut machine, 1, 3, SLOW_US);
    machine
}

#[test]
fn the_model_of_before_runs_though_it_is_far_slower_than_what_is_taken_back() {
    let machine = ordered_back();
    assert_eq!(machine.active, Some(bundle(1)), "{}", machine.told());
    assert_eq!(machine.phase, Phase::Healthy, "{}", machine.told());
}

#[test]
fn what_was_taken_back_does_not_come_back_by_itself() {
    let mut machine = ordered_back();
    for _ in 0..3 {
        let failed = Event::Failed(bundle(1).sha, "a value is NaN".into());
        step(&mut machine, failed);
    }
    assert_eq!(machine.active, None);
    assert_eq!(machine.phase, Phase::Failed);
}
