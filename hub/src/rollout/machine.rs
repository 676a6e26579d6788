//! The state machine of a rollout: owns what each event changes and what must be done, never a limit, a database or a clock.
//!
//! A device within a rollout (a report counts only if it answers our order):
//! ```text
//! pending -> downloading -> verified -> shadowing -> (next stage) pending
//!    |            |             |  \
//!    |            |             |   -> active -> healthy        healthy = the running hash, reported
//!    |            |             |        |          |           from the inference path after probation
//!    +------------+-------------+--------+----------+--> failed | rejected | rolled_back
//!    |  connected for the whole deadline         --> timed_out (a late report may still heal it)
//!    |  a newer order, or a newer rollout        --> superseded
//! ```
//! The rollout:
//! ```text
//!             approve                      last stage passed
//! awaiting ------------> running ---------------------------------> succeeded
//!     ^  \                |  ^  \ pause, deadline with too few online, no more evidence, or labels that nobody carries
//!     |   \ next stage    |  |   -> paused -- resume --> running
//!     |    <--------------+  |         |
//!     | abort, outdated, or too many   | abort, outdated, too many failures, or shown to be worse
//!     | failures          | abort, outdated, too many failures, shown to be worse, or not shown to be better in time
//!     +------------> rolling_back <----+ ----- all back, or deadline --> rolled_back
//! any of them, when a newer rollout of the forecaster starts ----------> superseded
//!   (by way of rolling_back where devices got the version active and the newer one begins in shadow)
//! ```

use serde::{Deserialize, Serialize};

use super::devices::Devices;
pub use super::hearing::listening;
use super::judge;
use super::numbers::next_above;
use super::plan::{Member, Mode, Plan, Stage, labelled};
pub use super::state::{DeviceState, Evidence, Operator, Status};

/// One device of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Where it stands.
    pub state: DeviceState,
    /// Why, in words.
    pub reason: String,
    /// Indices of the stages in which it takes part.
    #[serde(default)]
    pub stages: Vec<usize>,
    /// Generation of the last order given; 0: none yet.
    pub generation: u64,
    /// Whether its connection stood at the last report.
    pub online: bool,
    /// Process time since which it has been connected.
    #[serde(default)]
    pub online_since: Option<i64>,
    /// How long it was connected before that with its order open, milliseconds.
    #[serde(default)]
    pub waited_ms: i64,
    /// The last report answers an order back, and shows that it was obeyed.
    pub back: bool,
    /// It failed, fell back below the floor and was ordered to run no model.
    #[serde(default)]
    pub stripped: bool,
}

/// What a device last said of the forecaster, and whether it is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Connected now.
    pub online: bool,
    /// Generation of the order it answers.
    pub generation: u64,
    /// Its phase, in the words of this machine.
    pub phase: DeviceState,
    /// The bundle that made its last forecast is the rolled-out one.
    pub runs_new: bool,
    /// Version of the model that made its last forecast; 0: none.
    pub version: u64,
    /// Its reason, in words.
    pub reason: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time passes; also the first event of a rollout.
    Tick,
    /// Devices reported, came or went.
    Reports(Vec<(String, Report)>),
    /// More is known of how the new model does beside the old one.
    Evidence(Evidence),
    /// No version below this one may be ordered from now on.
    Floor(u64),
    /// The orders of these devices hold only for days yet.
    Expiring(Vec<String>),
    /// A person decided.
    Operator(Operator, String),
    /// The world has changed since the version learnt from it; why this is believed, in words.
    Outdated(String),
    /// A newer rollout of the forecaster started.
    NewerRollout {
        /// Its number.
        id: u64,
        /// It begins in shadow: it orders nobody active for a long time.
        watches: bool,
    },
}

/// What the driver must do, in the transaction that stores the new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Order the new bundle.
    Order {
        /// To whom.
        device: String,
        /// Shadow or active.
        mode: Mode,
        /// Higher than any before.
        generation: u64,
    },
    /// Order the bundle that was champion before, or to run no model.
    OrderBack {
        /// To whom.
        device: String,
        /// Its version; none: no model.
        to: Option<u64>,
        /// Higher than any before.
        generation: u64,
    },
    /// The version becomes champion.
    Promote,
}

/// A rollout as data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Stages and limits.
    pub plan: Plan,
    /// Version that is rolled out.
    #[serde(default)]
    pub version: u64,
    /// Champion at the start; none for a forecaster's first model.
    #[serde(default)]
    pub previous: Option<u64>,
    /// Index of the current stage.
    pub stage: usize,
    /// Where it stands.
    pub status: Status,
    /// Why, in words.
    pub reason: String,
    /// Process time at which the stage, or going back, began; none before the first tick.
    pub since: Option<i64>,
    /// Process time since which the stage's gate holds.
    pub passed_since: Option<i64>,
    /// Highest generation known: the database's, any device's, ours.
    pub generation: u64,
    /// How the new model does beside the old one, as far as is known.
    #[serde(default)]
    pub evidence: Option<Evidence>,
    /// Stages whose labels no device carries.
    #[serde(default)]
    pub unmatched: Vec<usize>,
    /// The newer rollout for which this one goes back.
    #[serde(default)]
    pub taken_over: Option<u64>,
    /// The older rollout whose devices must be back before this one begins.
    #[serde(default)]
    pub behind: Option<u64>,
    /// Since when devices are heard without a break, as of the last turn.
    #[serde(default)]
    pub listening: Option<i64>,
    /// Process time before which nothing passes and nobody is late, as devices are still to be heard anew.
    #[serde(default)]
    pub hears_from: i64,
    /// Devices by name; they have rows of their own.
    #[serde(skip_deserializing, serialize_with = "super::devices::apart")]
    pub devices: Devices,
}

impl Rollout {
    /// A rollout of `version` that has ordered nothing yet. `generation` is the highest of the database; devices' reports
    /// raise it.
    #[must_use]
    pub fn new(plan: Plan, version: u64, members: &[Member], generation: u64) -> Self {
        let awaiting = plan.stages.first().is_some_and(|s| s.approval);
        let devices = members
            .iter()
            .zip(plan.membership(members))
            .map(|(member, stages)| {
                let device = Deployment {
                    state: DeviceState::Pending,
                    reason: String::new(),
                    stages,
                    generation: 0,
                    online: false,
                    online_since: None,
                    waited_ms: 0,
                    back: false,
                    stripped: false,
                };
                (member.device.clone(), device)
            })
            .collect();
        Self {
            unmatched: plan.unmatched(members),
            taken_over: None,
            behind: None,
            listening: None,
            hears_from: 0,
            plan,
            version,
            previous: None,
            stage: 0,
            status: if awaiting {
                Status::Awaiting
            } else {
                Status::Running
            },
            reason: if awaiting {
                "waits for approval".into()
            } else {
                "started".into()
            },
            since: None,
            passed_since: None,
            generation,
            evidence: None,
            devices,
        }
    }

    /// It has ordered nobody anything, and will order a shadow first, which leaves what devices run as it is.
    #[must_use]
    pub fn begins_in_shadow(&self) -> bool {
        self.stage == 0
            && self.since.is_none()
            && self.current().is_some_and(|s| s.mode == Mode::Shadow)
    }

    /// All but the devices.
    pub(super) fn head(&mut self) -> Self {
        let devices = std::mem::take(&mut self.devices);
        let head = self.clone();
        self.devices = devices;
        head
    }

    /// What devices are ordered that go back; none: no model.
    #[must_use]
    pub fn back_to(&self) -> Option<u64> {
        self.previous.filter(|v| *v >= self.plan.floor)
    }

    pub(super) fn current(&self) -> Option<&Stage> {
        self.plan.stages.get(self.stage)
    }

    pub(super) fn set(&mut self, status: Status, reason: impl Into<String>) {
        self.status = status;
        self.reason = reason.into();
    }

    fn below_floor(&self, version: u64) -> bool {
        version > 0 && version < self.plan.floor
    }
}

impl Deployment {
    pub(super) fn waited(&self, now: i64) -> i64 {
        self.waited_ms + self.online_since.map_or(0, |t| (now - t).max(0))
    }

    pub(super) fn settled(&self) -> bool {
        self.state.failed() || matches!(self.state, DeviceState::Healthy | DeviceState::Superseded)
    }

    /// It was ordered something, and by nobody else since.
    fn obeys(&self) -> bool {
        self.generation > 0 && self.state != DeviceState::Superseded
    }

    fn set_online(&mut self, online: bool, now: i64) {
        self.online = online;
        if !online {
            self.waited_ms = self.waited(now);
            self.online_since = None;
        } else if self.online_since.is_none() {
            self.online_since = Some(now);
        }
    }

    pub(super) fn restart_clock(&mut self, now: i64) {
        self.waited_ms = 0;
        self.online_since = self.online.then_some(now);
    }
}

/// One step: changes the rollout by an event at process time `now` and says what must be done.
pub fn step(r: &mut Rollout, event: Event, now: i64) -> Vec<Action> {
    let mut actions = Vec::new();
    if r.status.is_final() {
        return actions;
    }
    match event {
        Event::Tick => {}
        Event::Reports(reports) => {
            for (device, report) in reports {
                heard(r, &device, report, now, &mut actions);
            }
        }
        Event::Evidence(evidence) => learnt(r, evidence, now),
        Event::Floor(floor) => judge::raised(r, floor, now, &mut actions),
        Event::Expiring(devices) => renew(r, &devices, &mut actions),
        Event::Operator(what, who) => operator(r, what, &who, now, &mut actions),
        Event::Outdated(_) if r.status == Status::RollingBack => {}
        Event::Outdated(why) => go_back(r, &why, now, &mut actions),
        Event::NewerRollout { id, watches } => supersede(r, id, watches, now, &mut actions),
    }
    advance(r, now, &mut actions);
    actions
}

/// Takes note of whether a device is connected. Said of every device before the first event of a round: otherwise an
/// event could end the rollout while a device that is there still counts as away.
pub fn connected(r: &mut Rollout, device: &str, online: bool, now: i64) {
    if let Some(d) = r.devices.get_mut(device) {
        d.set_online(online, now);
    }
}

fn heard(r: &mut Rollout, name: &str, report: Report, now: i64, actions: &mut Vec<Action>) {
    if next_above(r.generation, report.generation).is_some() {
        r.generation = r.generation.max(report.generation);
    }
    let returning = r.status == Status::RollingBack;
    let below = r.below_floor(report.version);
    let shadow = r.current().is_some_and(|s| s.mode == Mode::Shadow);
    let back = (!report.runs_new || r.back_to() == Some(r.version)) && !below;
    let Some(d) = r.devices.get_mut(name) else {
        return;
    };
    d.set_online(report.online, now);
    if d.generation == 0 || report.generation < d.generation || d.state == DeviceState::Superseded {
        return;
    }
    if report.generation > d.generation {
        d.state = DeviceState::Superseded;
        d.reason = format!(
            "obeys generation {}, newer than ours ({})",
            report.generation, d.generation
        );
        return;
    }
    if returning {
        d.back = back;
        return;
    }
    let was = d.state;
    settle(d, report, shadow);
    if was == DeviceState::Healthy && d.state == DeviceState::Active {
        // It started again and has not forecast since: its order may be older than a deadline by now.
        d.restart_clock(now);
    }
    if d.state.failed() && below && !d.stripped {
        // What it fell back to by itself must not run any more.
        r.generation += 1;
        d.generation = r.generation;
        d.stripped = true;
        actions.push(Action::OrderBack {
            device: name.to_owned(),
            to: None,
            generation: d.generation,
        });
    }
}

fn settle(d: &mut Deployment, report: Report, shadow: bool) {
    // What failed stays failed within its order; only a late device may still arrive.
    if d.state.failed() && d.state != DeviceState::TimedOut {
        return;
    }
    let state = match report.phase {
        DeviceState::Healthy if !report.runs_new => DeviceState::Active,
        DeviceState::TimedOut | DeviceState::Superseded => d.state,
        other => other,
    };
    let arrived = state == DeviceState::Healthy || (shadow && state == DeviceState::Shadowing);
    if d.state == DeviceState::TimedOut && !(arrived || state.failed()) {
        return;
    }
    d.state = state;
    d.reason = report.reason;
}

fn learnt(r: &mut Rollout, mut evidence: Evidence, now: i64) {
    let more = r
        .evidence
        .as_ref()
        .is_none_or(|e| e.blocks != evidence.blocks);
    evidence.heard_at = match &r.evidence {
        Some(before) if !more => before.heard_at,
        _ => now,
    };
    r.evidence = Some(evidence);
}

/// Orders once more what devices shall do: who has been away for long would refuse an order that has expired, and count as failed.
fn renew(r: &mut Rollout, devices: &[String], actions: &mut Vec<Action>) {
    if r.status == Status::RollingBack {
        return;
    }
    let begun = r.stage + usize::from(r.since.is_some());
    let generation = r.generation + 1;
    for name in devices {
        let Some(d) = r.devices.get_mut(name).filter(|d| d.generation > 0) else {
            continue;
        };
        let last = d.stages.iter().filter(|s| **s < begun).max();
        let stage = last.and_then(|s| r.plan.stages.get(*s));
        let gone = d.state == DeviceState::Superseded || d.stripped || d.state.failed();
        if let Some(stage) = stage.filter(|_| !gone || d.state == DeviceState::TimedOut) {
            r.generation = generation;
            d.generation = generation;
            actions.push(Action::Order {
                device: name.clone(),
                mode: stage.mode,
                generation,
            });
        }
    }
}

fn operator(r: &mut Rollout, what: Operator, who: &str, now: i64, actions: &mut Vec<Action>) {
    if !r.status.takes(what) {
        return;
    }
    match what {
        Operator::Pause => r.set(Status::Paused, format!("paused by {who}")),
        Operator::Resume => {
            r.set(Status::Running, format!("resumed by {who}"));
            // Time spent paused is nobody's fault: the deadlines start anew.
            if r.since.is_some() {
                r.since = Some(now);
            }
            // Nobody watched over devices meanwhile.
            if judge::counts(r).members > 0 {
                r.passed_since = None;
            }
            let again = |_: &str, d: &mut Deployment| {
                if d.state == DeviceState::TimedOut {
                    d.state = DeviceState::Pending;
                }
                d.restart_clock(now);
            };
            r.devices.change(|_| true, again);
        }
        Operator::Approve => r.set(Status::Running, format!("approved by {who}")),
        Operator::Abort => go_back(r, &format!("aborted by {who}"), now, actions),
    }
}

fn supersede(r: &mut Rollout, id: u64, watches: bool, now: i64, actions: &mut Vec<Action>) {
    let begun = r.stage + usize::from(r.since.is_some());
    let active = |s: &Stage| s.mode == Mode::Active;
    // A shadow beside a version that nobody has accepted would leave that in charge for as long as it lasts, and be compared with it.
    if watches && r.plan.stages.iter().take(begun).any(active) {
        if r.status != Status::RollingBack {
            go_back(r, &format!("rollout {id} took over"), now, actions);
            r.taken_over = Some(id);
        }
        return;
    }
    let way = |d: &Deployment| !d.state.failed() && d.state != DeviceState::Healthy;
    r.devices.change(way, |_, d| {
        d.state = DeviceState::Superseded;
        d.reason = format!("rollout {id} took over");
    });
    r.set(Status::Superseded, format!("rollout {id} took over"));
}

pub(super) fn go_back(r: &mut Rollout, reason: &str, now: i64, actions: &mut Vec<Action>) {
    r.set(Status::RollingBack, reason);
    r.since = Some(now);
    r.passed_since = None;
    r.generation += 1;
    let (generation, to) = (r.generation, r.back_to());
    r.devices.change(Deployment::obeys, |name, d| {
        d.generation = generation;
        d.back = false;
        if !d.state.failed() {
            d.reason = reason.to_owned();
        }
        actions.push(Action::OrderBack {
            device: name.to_owned(),
            to,
            generation,
        });
    });
}

fn advance(r: &mut Rollout, now: i64, actions: &mut Vec<Action>) {
    if now < r.hears_from {
        return;
    }
    // Each turn starts one stage, ends one, or ends the rollout, so that it is bounded.
    for _ in 0..=2 * r.plan.stages.len() {
        let before = (r.status, r.stage, r.since);
        judge::sink(r, now, actions);
        match r.status {
            Status::Running if r.since.is_none() && r.behind.is_some() => {}
            Status::Running if r.since.is_none() => {
                // What failed before may be more than this stage allows: then nobody is ordered forward first.
                judge::stop_if_failing(r, r.stage, true, now, actions);
                judge::stop_if_harmful(r, now, actions);
                if r.status == Status::Running {
                    begin_stage(r, now, actions);
                }
            }
            Status::Running => judge::stage(r, now, actions),
            Status::Paused if r.since.is_some() => {
                judge::stop_if_failing(r, r.stage, false, now, actions);
                judge::stop_if_harmful(r, now, actions);
            }
            // The stage that passed is the one whose devices run the new model.
            Status::Awaiting if r.stage > 0 => {
                judge::stop_if_failing(r, r.stage - 1, false, now, actions);
            }
            Status::RollingBack => finish_back(r, now),
            _ => {}
        }
        if (r.status, r.stage, r.since) == before {
            return;
        }
    }
}

fn begin_stage(r: &mut Rollout, now: i64, actions: &mut Vec<Action>) {
    let Some(stage) = r.current().cloned() else {
        return;
    };
    r.since = Some(now);
    r.generation += 1;
    let (generation, index) = (r.generation, r.stage);
    let mut ordered = 0;
    let due = |d: &Deployment| !d.settled() && d.stages.contains(&index);
    r.devices.change(due, |name, d| {
        d.state = DeviceState::Pending;
        d.reason = format!("ordered in stage {}", stage.name);
        d.generation = generation;
        d.stripped = false;
        d.restart_clock(now);
        ordered += 1;
        actions.push(Action::Order {
            device: name.to_owned(),
            mode: stage.mode,
            generation,
        });
    });
    // Who is in it has shown itself in an earlier stage: there is nothing new to wait for.
    r.passed_since = (ordered == 0).then_some(now - stage.soak_ms);
    r.reason = format!("stage {} began", stage.name);
    if r.unmatched.contains(&index) {
        let or = if judge::proof(r).is_some() {
            ": it is to show how the model does, and nobody can"
        } else {
            ", or resume to go on without the stage"
        };
        let reason = format!(
            "stage {}: none of {} devices carries {}; abort and start anew with labels that some carry{or}",
            stage.name,
            r.devices.len(),
            labelled(&stage.labels)
        );
        r.set(Status::Paused, reason);
    }
}

fn finish_back(r: &mut Rollout, now: i64) {
    let overdue = r
        .since
        .zip(r.current())
        .is_some_and(|(t, s)| now - t >= s.deadline_ms);
    let open = r.devices.values().any(|d| d.obeys() && d.online && !d.back);
    if open && !overdue {
        return;
    }
    let back = |d: &Deployment| d.obeys() && d.back && !d.state.failed();
    r.devices
        .change(back, |_, d| d.state = DeviceState::RolledBack);
    let reason = r.reason.clone();
    let end = match r.taken_over {
        Some(_) => Status::Superseded,
        None => Status::RolledBack,
    };
    r.set(end, reason);
}
