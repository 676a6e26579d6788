//! What a run is to do: owns its size, its seed and the order of its steps; a pure function of them, no I/O.

use std::time::Duration;

use super::random::Random;
use super::{clocks, disks, kills, network};

/// A run of the fault harness.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// How long faults go on.
    pub duration: Duration,
    /// Kills of processes a minute.
    pub kills_per_minute: f64,
    /// Readings a second, all devices together.
    pub rate: f64,
    /// Devices.
    pub devices: usize,
    /// Whether the hub's own broker is used, also where Mosquitto is installed.
    pub embedded_broker: bool,
    /// Say what happens, step by step.
    pub talk: bool,
}

impl Plan {
    /// The short form: about a minute of everything.
    #[must_use]
    pub fn short(seed: u64) -> Self {
        Self {
            seed,
            duration: Duration::from_secs(24),
            kills_per_minute: 28.0,
            rate: 1_000.0,
            devices: 3,
            embedded_broker: false,
            talk: true,
        }
    }
}

/// A process that can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Device(usize),
    Broker,
    Hub,
    Postgres,
}

/// A way that can be disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Link {
    /// From a device to the broker.
    Device(usize),
    /// From the hub to the broker; none with the hub's own.
    Broker,
    /// From the hub to PostgreSQL.
    Database,
}

/// A disk that can be full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Disk {
    /// The last device's.
    Device,
    /// PostgreSQL's.
    Database,
}

/// Something that takes its time and needs everything else to be well meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trial {
    /// A buffer's file is spoilt.
    Damage,
    /// A device comes back with an old disk.
    OldImage,
    /// A device runs twice.
    Clones,
    /// The database comes back from a backup, and the hub is told.
    BackupTold,
    /// The same, and nobody tells it.
    BackupUntold,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Kill(Target),
    Start(Target),
    Disturb(Link, super::proxy::Mode),
    Fill(Disk),
    Free(Disk),
    Jump(usize, clocks::Jump),
    Try(Trial),
}

/// A step and when it is due.
pub(crate) type Timed = (Duration, Step);

/// All steps of a run, in order. `broker`: whether there is a broker apart from the hub.
pub(crate) fn steps(plan: &Plan, broker: bool) -> Vec<Timed> {
    let mut random = Random::new(plan.seed);
    let mut all = kills::steps(plan, broker, &mut random);
    all.extend(network::steps(plan, broker, &mut random));
    all.extend(disks::steps(plan, &mut random));
    all.extend(clocks::steps(plan, &mut random));
    all.extend(trials(plan, &mut random));
    all.sort_by_key(|(at, _)| *at);
    all
}

const TRIALS: [Trial; 5] = [
    Trial::Damage,
    Trial::BackupUntold,
    Trial::OldImage,
    Trial::Clones,
    Trial::BackupTold,
];
/// From one trial to the next in a long run.
const TRIAL_EVERY: Duration = Duration::from_secs(80);

/// All trials in a random order, and again in another one while there is time.
fn trials(plan: &Plan, random: &mut Random) -> Vec<Timed> {
    let every = (plan.duration / 6).min(TRIAL_EVERY);
    let mut steps = Vec::new();
    let mut at = every;
    while at < plan.duration {
        let mut left = TRIALS.to_vec();
        while !left.is_empty() && at < plan.duration {
            let trial = left.swap_remove(random.index(left.len()));
            steps.push((at, Step::Try(trial)));
            at += every;
        }
    }
    steps
}

/// A time around `mean`, from half of it to one and a half.
pub(crate) fn around(mean: Duration, random: &mut Random) -> Duration {
    let ms = u64::try_from(mean.as_millis()).unwrap_or(u64::MAX).max(2);
    Duration::from_millis(random.between(ms / 2, ms + ms / 2 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_run_and_another_seed_another() {
        let (one, two) = (Plan::short(7), Plan::short(8));
        assert_eq!(steps(&one, true), steps(&one, true));
        assert_ne!(steps(&one, true), steps(&two, true));
    }

    #[test]
    fn whatever_is_killed_or_disturbed_comes_back_and_kills_come_as_often_as_asked() {
        let plan = Plan {
            duration: Duration::from_secs(1_800),
            ..Plan::short(3)
        };
        for broker in [true, false] {
            let steps = steps(&plan, broker);
            let kills = steps
                .iter()
                .filter(|(_, s)| matches!(s, Step::Kill(_)))
                .count();
            assert!(
                (700..=920).contains(&kills),
                "{kills} kills in 30 minutes at 28 a minute"
            );
            let mut down = std::collections::BTreeSet::new();
            for (_, step) in &steps {
                match step {
                    Step::Kill(t) => assert!(down.insert(*t), "{t:?} is killed while it is down"),
                    Step::Start(t) => assert!(down.remove(t), "{t:?} is started while it runs"),
                    _ => {}
                }
            }
            assert!(down.is_empty(), "{down:?} stay down");
            assert_eq!(
                broker,
                steps.iter().any(|(_, s)| *s == Step::Kill(Target::Broker))
            );
        }
    }
}
