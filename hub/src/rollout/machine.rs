//! The state machine of a rollout: owns every decision as a pure function, never touches a database or a clock.
//!
//! A device within a rollout (`D` any reported failure; a report counts only if it answers our order):
//! ```text
//! pending -> downloading -> verified -> shadowing -> (next stage) pending
//!    |            |             |  \
//!    |            |             |   -> active -> healthy        healthy = the running hash, reported
//!    |            |             |        |          |           from the inference path after probation
//!    +------------+-------------+--------+----------+--> failed | rejected | rolled_back
//!    |  deadline passed while online                     --> timed_out (a late report may still heal it)
//!    |  a newer order, or a newer rollout                --> superseded
//! ```
//! The rollout:
//! ```text
//!             approve                      last stage passed
//! awaiting ------------> running ---------------------------------> succeeded
//!     ^  \                |  ^  \ pause, or deadline with too few online
//!     |   \ next stage    |  |   -> paused -- resume --> running
//!     |    <--------------+  |         |
//!     | abort, or too many failures    | abort, or too many failures
//!     +--------------> rolling_back <--+ ----- all back, or deadline --> rolled_back
//! any of them, when a newer rollout of the forecaster starts ----------> superseded
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::{Mode, Plan, Stage};
pub use super::state::{DeviceState, Status};

/// One device of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Where it stands.
    pub state: DeviceState,
    /// Why, in words.
    pub reason: String,
    /// 0..100; decides in which stage it takes part.
    pub bucket: u8,
    /// Generation of the last order given; 0: none yet.
    pub generation: u64,
    /// Whether its connection stood at the last report.
    pub online: bool,
    /// The last report answers an order back, and shows that it was obeyed.
    pub back: bool,
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
    /// It does not run the rolled-out bundle, or that is also what going back leads to.
    pub back: bool,
    /// Its reason, in words.
    pub reason: String,
}

/// What a person does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Order nothing new.
    Pause,
    /// Go on.
    Resume,
    /// Let the next stage begin.
    Approve,
    /// Go back.
    Abort,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passes; also the first event of a rollout.
    Tick,
    /// A device reported, came or went.
    Report(String, Report),
    /// A person decided.
    Operator(Operator, String),
    /// A newer rollout of the forecaster started.
    NewerRollout(u64),
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
    /// Order the bundle that was champion before, or to run no model where there was none.
    OrderBack {
        /// To whom.
        device: String,
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
    /// Devices by name.
    pub devices: BTreeMap<String, Deployment>,
}

impl Rollout {
    /// A rollout that has ordered nothing yet. `generation` is the highest of the database and of
    /// every device's report. Devices come with their bucket of 0..100.
    #[must_use]
    pub fn new(
        plan: Plan,
        devices: impl IntoIterator<Item = (String, u8)>,
        generation: u64,
    ) -> Self {
        let awaiting = plan.stages.first().is_some_and(|s| s.approval);
        let devices = devices
            .into_iter()
            .map(|(name, bucket)| {
                let device = Deployment {
                    state: DeviceState::Pending,
                    reason: String::new(),
                    bucket,
                    generation: 0,
                    online: false,
                    back: false,
                };
                (name, device)
            })
            .collect();
        Self {
            plan,
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
            devices,
        }
    }

    fn current(&self) -> Option<&Stage> {
        self.plan.stages.get(self.stage)
    }

    fn set(&mut self, status: Status, reason: impl Into<String>) {
        self.status = status;
        self.reason = reason.into();
    }

    fn members(&self) -> impl Iterator<Item = (&String, &Deployment)> {
        let stage = self.stage;
        self.devices
            .iter()
            .filter(move |(_, d)| self.plan.member(stage, d.bucket))
    }
}

/// Counts of the current stage, for the gate and for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Devices of the stage, superseded ones left out.
    pub members: usize,
    /// Healthy, or shadowing in a shadow stage.
    pub passed: usize,
    /// Failed, rejected, rolled back or timed out.
    pub failed: usize,
    /// Connected and not settled.
    pub open: usize,
    /// Not connected and not settled: neither passed nor failed.
    pub offline: usize,
}

/// Counts the current stage's devices.
#[must_use]
pub fn counts(r: &Rollout) -> Counts {
    let shadow = r.current().is_some_and(|s| s.mode == Mode::Shadow);
    let mut c = Counts::default();
    for (_, d) in r.members() {
        if d.state == DeviceState::Superseded {
            continue;
        }
        c.members += 1;
        let passed =
            d.state == DeviceState::Healthy || (shadow && d.state == DeviceState::Shadowing);
        match () {
            () if passed => c.passed += 1,
            () if d.state.failed() => c.failed += 1,
            () if d.online => c.open += 1,
            () => c.offline += 1,
        }
    }
    c
}

/// One step: changes the rollout by an event at process time `now` and says what must be done.
pub fn step(r: &mut Rollout, event: Event, now: i64) -> Vec<Action> {
    let mut actions = Vec::new();
    if r.status.is_final() {
        return actions;
    }
    match event {
        Event::Tick => {}
        Event::Report(device, report) => heard(r, &device, report),
        Event::Operator(what, who) => operator(r, what, &who, now, &mut actions),
        Event::NewerRollout(id) => supersede(r, id),
    }
    advance(r, now, &mut actions);
    actions
}

/// Takes note of whether a device is connected. Said of every device before the first event of a round: otherwise an
/// event could end the rollout while a device that is there still counts as away.
pub fn connected(r: &mut Rollout, device: &str, online: bool) {
    if let Some(d) = r.devices.get_mut(device) {
        d.online = online;
    }
}

fn heard(r: &mut Rollout, name: &str, report: Report) {
    r.generation = r.generation.max(report.generation);
    let back = r.status == Status::RollingBack;
    let Some(d) = r.devices.get_mut(name) else {
        return;
    };
    d.online = report.online;
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
    if back {
        d.back = report.back;
        return;
    }
    // What failed stays failed within its order; only a late device may still arrive.
    if d.state.failed() && d.state != DeviceState::TimedOut {
        return;
    }
    let state = match report.phase {
        DeviceState::Healthy if !report.runs_new => DeviceState::Active,
        DeviceState::TimedOut | DeviceState::Superseded => d.state,
        other => other,
    };
    if d.state == DeviceState::TimedOut && !(state == DeviceState::Healthy || state.failed()) {
        return;
    }
    d.state = state;
    d.reason = report.reason;
}

fn operator(r: &mut Rollout, what: Operator, who: &str, now: i64, actions: &mut Vec<Action>) {
    match (what, r.status) {
        (Operator::Pause, Status::Running) => r.set(Status::Paused, format!("paused by {who}")),
        (Operator::Resume, Status::Paused) => {
            r.set(Status::Running, format!("resumed by {who}"));
            // Time spent paused is nobody's fault: the stage's deadline starts anew.
            if r.since.is_some() {
                r.since = Some(now);
            }
            for d in r
                .devices
                .values_mut()
                .filter(|d| d.state == DeviceState::TimedOut)
            {
                d.state = DeviceState::Pending;
            }
        }
        (Operator::Approve, Status::Awaiting) => {
            r.set(Status::Running, format!("approved by {who}"))
        }
        (Operator::Abort, s) if s != Status::RollingBack => {
            go_back(r, &format!("aborted by {who}"), now, actions)
        }
        _ => {}
    }
}

fn supersede(r: &mut Rollout, id: u64) {
    for d in r.devices.values_mut() {
        if !d.state.failed() && d.state != DeviceState::Healthy {
            d.state = DeviceState::Superseded;
            d.reason = format!("rollout {id} took over");
        }
    }
    r.set(Status::Superseded, format!("rollout {id} took over"));
}

fn go_back(r: &mut Rollout, reason: &str, now: i64, actions: &mut Vec<Action>) {
    r.set(Status::RollingBack, reason);
    r.since = Some(now);
    r.passed_since = None;
    r.generation += 1;
    let generation = r.generation;
    for (name, d) in &mut r.devices {
        if d.generation > 0 && d.state != DeviceState::Superseded {
            d.generation = generation;
            d.back = false;
            if !d.state.failed() {
                d.reason = reason.to_owned();
            }
            actions.push(Action::OrderBack {
                device: name.clone(),
                generation,
            });
        }
    }
}

fn advance(r: &mut Rollout, now: i64, actions: &mut Vec<Action>) {
    // Each turn starts one stage, ends one, or ends the rollout, so that it is bounded.
    for _ in 0..=2 * r.plan.stages.len() {
        let before = (r.status, r.stage, r.since);
        match r.status {
            Status::Running if r.since.is_none() => {
                // What failed before may be more than this stage allows: then nobody is ordered forward first.
                stop_if_failing(r, true, now, actions);
                if r.status == Status::Running {
                    begin_stage(r, now, actions);
                }
            }
            Status::Running => judge_stage(r, now, actions),
            Status::Paused if r.since.is_some() => stop_if_failing(r, false, now, actions),
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
    r.passed_since = None;
    r.generation += 1;
    let (generation, index) = (r.generation, r.stage);
    let plan = r.plan.clone();
    for (name, d) in &mut r.devices {
        let settled = d.state == DeviceState::Healthy
            || d.state == DeviceState::Superseded
            || d.state.failed();
        if settled || !plan.member(index, d.bucket) {
            continue;
        }
        d.state = DeviceState::Pending;
        d.reason = format!("ordered in stage {}", stage.name);
        d.generation = generation;
        actions.push(Action::Order {
            device: name.clone(),
            mode: stage.mode,
            generation,
        });
    }
    r.reason = format!("stage {} began", stage.name);
}

/// Whether the failures are too many. A few devices that are heard first say little of thousands: then it also takes a
/// number of failures, until everyone has been heard.
fn too_many_failed(c: &Counts, stage: &Stage, complete: bool) -> bool {
    let heard = c.failed + c.passed + c.open;
    let fewest = stage.min_failed.min(c.members.div_ceil(2));
    c.failed > 0
        && c.failed as f64 > stage.max_failed_share * heard as f64
        && (complete || c.failed >= fewest)
}

/// `complete`: nobody is waited for any longer.
fn stop_if_failing(r: &mut Rollout, complete: bool, now: i64, actions: &mut Vec<Action>) {
    let (Some(stage), c) = (r.current().cloned(), counts(r)) else {
        return;
    };
    let complete = complete || (c.open == 0 && c.offline == 0);
    if too_many_failed(&c, &stage, complete) {
        let reason = format!(
            "{} of {} devices failed in stage {}, allowed is a share of {}",
            c.failed,
            c.failed + c.passed + c.open,
            stage.name,
            stage.max_failed_share
        );
        go_back(r, &reason, now, actions);
    }
}

fn judge_stage(r: &mut Rollout, now: i64, actions: &mut Vec<Action>) {
    let (Some(stage), Some(since)) = (r.current().cloned(), r.since) else {
        return;
    };
    let overdue = now - since >= stage.deadline_ms;
    if overdue {
        let (index, plan) = (r.stage, r.plan.clone());
        for d in r
            .devices
            .values_mut()
            .filter(|d| d.online && plan.member(index, d.bucket))
        {
            let shadowing = stage.mode == Mode::Shadow && d.state == DeviceState::Shadowing;
            let settled = d.state.failed()
                || d.state == DeviceState::Healthy
                || d.state == DeviceState::Superseded;
            if !shadowing && !settled {
                d.reason = format!(
                    "online, but {} when the deadline of stage {} passed",
                    d.state.as_str(),
                    stage.name
                );
                d.state = DeviceState::TimedOut;
            }
        }
    }
    let c = counts(r);
    let enough = (c.passed + c.failed) as f64 >= stage.min_online_share * c.members as f64;
    stop_if_failing(r, overdue && enough && c.open == 0, now, actions);
    if r.status != Status::Running {
        return;
    }
    if c.members == 0 && r.members().next().is_some() {
        r.set(
            Status::Superseded,
            "every device of the stage obeys a newer order",
        );
        return;
    }
    if c.open == 0 && enough && (c.passed > 0 || c.members == 0) && c.offline_may_wait(overdue) {
        let passed = *r.passed_since.get_or_insert(now);
        if now - passed >= stage.soak_ms {
            end_stage(r, &stage, actions);
        }
        return;
    }
    r.passed_since = None;
    if overdue {
        let reason = format!(
            "stage {}: at the deadline only {} of {} devices had been heard ({} offline); resume to wait again or abort",
            stage.name,
            c.passed + c.failed,
            c.members,
            c.offline
        );
        r.set(Status::Paused, reason);
    }
}

impl Counts {
    // Offline devices hold a stage up until its deadline: they may be only a moment late.
    fn offline_may_wait(&self, overdue: bool) -> bool {
        self.offline == 0 || overdue
    }
}

fn end_stage(r: &mut Rollout, stage: &Stage, actions: &mut Vec<Action>) {
    r.since = None;
    r.passed_since = None;
    if r.stage + 1 >= r.plan.stages.len() {
        let c = counts(r);
        r.set(
            Status::Succeeded,
            format!("healthy on {} of {} devices", c.passed, c.members),
        );
        actions.push(Action::Promote);
        return;
    }
    r.stage += 1;
    if r.current().is_some_and(|s| s.approval) {
        r.set(
            Status::Awaiting,
            format!("stage {} passed; the next waits for approval", stage.name),
        );
    }
}

fn finish_back(r: &mut Rollout, now: i64) {
    let overdue = r
        .since
        .zip(r.current())
        .is_some_and(|(t, s)| now - t >= s.deadline_ms);
    let open = r
        .devices
        .values()
        .any(|d| d.generation > 0 && d.state != DeviceState::Superseded && d.online && !d.back);
    if open && !overdue {
        return;
    }
    for d in r
        .devices
        .values_mut()
        .filter(|d| d.generation > 0 && d.back)
    {
        if !d.state.failed() && d.state != DeviceState::Superseded {
            d.state = DeviceState::RolledBack;
        }
    }
    let reason = r.reason.clone();
    r.set(Status::RolledBack, reason);
}
