//! Severed and half-open connections, latency and loss: owns which link suffers what, when and for how long.

use std::time::Duration;

use super::plan::{Link, Plan, Step, Timed, around};
use super::proxy::Mode;
use super::random::Random;

/// From the end of one disturbance to the next.
const EVERY: Duration = Duration::from_secs(7);

pub(crate) fn steps(plan: &Plan, broker: bool, random: &mut Random) -> Vec<Timed> {
    let mut steps = Vec::new();
    let mut at = around(EVERY, random);
    while at < plan.duration {
        let link = match random.below(10) {
            0 | 1 => Link::Database,
            2 | 3 if broker => Link::Broker,
            _ => Link::Device(random.index(plan.devices)),
        };
        let (mode, longest) = match random.below(5) {
            0 => (Mode::Cut, 2_000),
            1 => (Mode::HalfOpen, 8_000),
            2 => (Mode::Stall, 6_000),
            3 => (Mode::Slow(random.between(20, 300)), 10_000),
            _ => (Mode::Lossy, 12_000),
        };
        let end = at + Duration::from_millis(random.between(300, longest));
        steps.extend([
            (at, Step::Disturb(link, mode)),
            (end, Step::Disturb(link, Mode::Good)),
        ]);
        at = end + around(EVERY, random);
    }
    steps
}
