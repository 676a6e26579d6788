//! An experiment as a machine: owns its states and every transition as one pure function, never I/O, time or chance.
//!
//! ```text
//!            a device fits                 its time is over             a day for data that come late
//!   planned ---------------> running ---------------------> collecting ---------------> ENDED
//!      |                        |
//!      | stop, a version below the floor, or nobody fits for a week
//!      |                        | stop, a version below the floor, or too many failures in an arm
//!      +------------------------+--------> STOPPED
//! ```
//! Devices are ordered their arm's version while it runs, and those that come in the first half of its time join. From
//! `collecting` and `STOPPED` on they are not held any more and get the champion, also those that the forecaster selects no more.

use std::collections::BTreeMap;

use fieldcast_drift::arms::Arm;
use serde::{Deserialize, Serialize};

use super::assign::arm;
use crate::rollout::machine::{DeviceState, Report};
use crate::rollout::numbers::next_above;

const HOUR_MS: i64 = 3_600_000;
/// Data of the time of an experiment that come later than this do not count.
pub const LATE_MS: i64 = 24 * HOUR_MS;
/// So long nobody may fit.
const UNFIT_MS: i64 = 7 * 24 * HOUR_MS;
/// Failures in an arm that end it, and their share of the devices that said anything of its order.
const MIN_FAILED: usize = 3;
const MAX_FAILED_SHARE: f64 = 0.34;
/// Who fails says so first: of so many devices of an arm, or of half of a smaller one, something must have been heard.
const MIN_HEARD: usize = 10;

/// State of an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for its first device.
    Planned,
    /// Devices run both versions.
    Running,
    /// Its time is over; data of it may still come.
    Collecting,
    /// Final: its report may be decided by.
    Ended,
    /// Final: ended before its time.
    Stopped,
}

impl Status {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Planned,
        Self::Running,
        Self::Collecting,
        Self::Ended,
        Self::Stopped,
    ];

    /// Nobody else orders its devices, and no rollout of its forecaster begins.
    #[must_use]
    pub fn holds(self) -> bool {
        matches!(self, Self::Planned | Self::Running)
    }

    /// Nothing leads on from here.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Ended | Self::Stopped)
    }

    /// The state as it is written in the database and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Running => "running",
            Self::Collecting => "collecting",
            Self::Ended => "ended",
            Self::Stopped => "stopped",
        }
    }
}

/// A device in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its arm, once and for all.
    pub arm: Arm,
    /// Generation of its order.
    pub generation: u64,
    /// How it does with it.
    pub state: DeviceState,
    /// Why, in its words.
    pub reason: String,
}

/// An experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// Number.
    pub id: i64,
    /// Versions of A and B.
    pub versions: [u64; 2],
    /// Share of devices that get B.
    pub share_b: f64,
    /// How long it takes, milliseconds.
    pub length_ms: i64,
    /// State.
    pub status: Status,
    /// Why, in words.
    pub reason: String,
    /// Asked for.
    pub created_at: i64,
    /// The first device joined.
    pub started_at: Option<i64>,
    /// What is measured ends here.
    pub ends_at: Option<i64>,
    /// Its devices.
    pub members: BTreeMap<String, Member>,
    /// Highest generation that the database knows.
    pub generation: u64,
}

/// What happens to it.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A person asks for its end: who, and why.
    Stop(String, String),
    /// Lowest version that devices may run.
    Floor(u64),
    /// What devices say.
    Reports(Vec<(String, Report)>),
    /// Time passes.
    Tick,
    /// Devices that fit, each with the highest generation that it knows; none that is too far above ours joins.
    Fit(Vec<(String, u64)>),
}

/// A device is to run its arm's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Device.
    pub device: String,
    /// Its arm.
    pub arm: Arm,
    /// Generation.
    pub generation: u64,
}

impl Experiment {
    /// Whether devices may join.
    #[must_use]
    pub fn joins(&self, now: i64) -> bool {
        match (self.status, self.started_at) {
            (Status::Planned, _) => true,
            // Whoever comes later would be measured for less than half of the time.
            (Status::Running, Some(start)) => now < start + self.length_ms / 2,
            _ => false,
        }
    }

    fn stop(&mut self, reason: String, now: i64) {
        self.status = Status::Stopped;
        self.reason = reason;
        self.ends_at = self.started_at.map(|_| now);
    }
}

/// Moves an experiment by one event; answers what is to be ordered.
pub fn step(e: &mut Experiment, event: Event, now: i64) -> Vec<Order> {
    match event {
        Event::Tick => tick(e, now),
        Event::Fit(devices) if e.joins(now) => return join(e, devices, now),
        Event::Stop(who, why) if e.status.holds() => {
            let why = if why.is_empty() {
                why
            } else {
                format!(": {why}")
            };
            e.stop(format!("stopped by {who}{why}"), now);
        }
        Event::Floor(floor) if e.status.holds() => {
            if let Some(version) = e.versions.iter().find(|v| **v < floor) {
                let reason =
                    format!("version {version} is below the lowest that devices may run, {floor}");
                e.stop(reason, now);
            }
        }
        Event::Reports(reports) if e.status.holds() => {
            take_in(e, reports);
            if let Some(reason) = [Arm::A, Arm::B].into_iter().find_map(|arm| failing(e, arm)) {
                e.stop(reason, now);
            }
        }
        Event::Fit(_) | Event::Stop(..) | Event::Floor(_) | Event::Reports(_) => {}
    }
    Vec::new()
}

fn tick(e: &mut Experiment, now: i64) {
    if e.status == Status::Planned && now >= e.created_at + UNFIT_MS {
        e.stop("no device has fitted for a week".to_owned(), now);
    }
    let Some(ends_at) = e.ends_at else { return };
    if e.status == Status::Running && now >= ends_at {
        e.status = Status::Collecting;
        e.reason = "its time is over; data of it may come for a day".to_owned();
    }
    if e.status == Status::Collecting && now >= ends_at + LATE_MS {
        e.status = Status::Ended;
        e.reason = "its time is over".to_owned();
    }
}

fn join(e: &mut Experiment, devices: Vec<(String, u64)>, now: i64) -> Vec<Order> {
    let mut orders = Vec::new();
    for (device, known) in devices {
        if e.members.contains_key(&device) {
            continue;
        }
        let Some(generation) = next_above(e.generation, known) else {
            continue;
        };
        let arm = arm(e.id, &device, e.share_b);
        let member = Member {
            arm,
            generation,
            state: DeviceState::Pending,
            reason: String::new(),
        };
        e.members.insert(device.clone(), member);
        orders.push(Order {
            device,
            arm,
            generation,
        });
    }
    if e.status == Status::Planned && !orders.is_empty() {
        e.status = Status::Running;
        e.started_at = Some(now);
        e.ends_at = Some(now + e.length_ms);
    }
    orders
}

fn take_in(e: &mut Experiment, reports: Vec<(String, Report)>) {
    for (device, report) in reports {
        let Some(member) = e.members.get_mut(&device) else {
            continue;
        };
        if report.generation != member.generation {
            continue;
        }
        member.state = match report.phase {
            // Another bundle makes its forecasts.
            DeviceState::Healthy if !report.runs_new => DeviceState::Active,
            phase => phase,
        };
        member.reason = report.reason;
    }
}

/// Why an arm is not to go on.
fn failing(e: &Experiment, arm: Arm) -> Option<String> {
    let of = e.members.values().filter(|m| m.arm == arm);
    let (mut all, mut failed, mut heard) = (0_usize, 0_usize, 0_usize);
    for member in of {
        all += 1;
        failed += usize::from(member.state.failed());
        heard += usize::from(member.state != DeviceState::Pending);
    }
    let enough = failed >= MIN_FAILED && heard >= MIN_HEARD.min(all.div_ceil(2));
    let share = failed as f64 / heard.max(1) as f64;
    (enough && share > MAX_FAILED_SHARE).then(|| {
        let version = e.versions[usize::from(arm == Arm::B)];
        format!("version {version} failed on {failed} of {heard} devices heard, of {all}")
    })
}
