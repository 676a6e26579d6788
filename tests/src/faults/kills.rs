//! kill -9 of agents, hub, broker and PostgreSQL: owns when each is killed and how long it stays down.

use std::collections::BTreeMap;
use std::time::Duration;

use super::plan::{Plan, Step, Target, Timed, around};
use super::random::Random;

/// Longest time that a killed process stays down.
const DOWN_MS: u64 = 2_500;

pub(crate) fn steps(plan: &Plan, broker: bool, random: &mut Random) -> Vec<Timed> {
    let mut steps = Vec::new();
    let mut up_at: BTreeMap<Target, Duration> = BTreeMap::new();
    let every = Duration::from_secs_f64(60.0 / plan.kills_per_minute.max(0.01));
    let mut at = around(every, random);
    while at < plan.duration {
        // Agents most: theirs is the state that must survive.
        let target = match random.below(10) {
            0 | 1 => Target::Hub,
            2 => Target::Postgres,
            3 | 4 if broker => Target::Broker,
            _ => Target::Device(random.index(plan.devices)),
        };
        if up_at.get(&target).is_none_or(|up| *up < at) {
            // Half of them come back at once, as a service manager would have it.
            let down = if random.below(2) == 0 {
                1
            } else {
                random.between(100, DOWN_MS)
            };
            let up = at + Duration::from_millis(down);
            steps.extend([(at, Step::Kill(target)), (up, Step::Start(target))]);
            up_at.insert(target, up);
        }
        at += around(every, random);
    }
    steps
}
