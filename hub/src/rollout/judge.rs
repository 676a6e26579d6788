//! The gates of a rollout's stages: owns when a stage has passed, must wait, pause or go back, never what an event changes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::machine::{Action, Deployment, DeviceState, Rollout, Status, go_back};
use super::plan::{Mode, Need, Proof, Stage};
use super::state::Evidence;

/// Counts of one stage, for the gate and for people.
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

/// Counts the devices of the current stage.
#[must_use]
pub fn counts(r: &Rollout) -> Counts {
    counts_of(r, r.stage)
}

fn counts_of(r: &Rollout, stage: usize) -> Counts {
    let shadow = r
        .plan
        .stages
        .get(stage)
        .is_some_and(|s| s.mode == Mode::Shadow);
    let mut c = Counts::default();
    for d in r.devices.values().filter(|d| d.stages.contains(&stage)) {
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

impl Counts {
    fn enough(&self, stage: &Stage) -> bool {
        (self.passed + self.failed) as f64 >= stage.min_online_share * self.members as f64
    }

    /// Whether the failures are too many. A few devices that are heard first say little of thousands: then it also takes a
    /// number of failures, until everyone has been heard.
    fn too_many_failed(&self, stage: &Stage, complete: bool) -> bool {
        let heard = self.failed + self.passed + self.open;
        let fewest = stage.min_failed.min(self.members.div_ceil(2));
        self.failed > 0
            && self.failed as f64 > stage.max_failed_share * heard as f64
            && (complete || self.failed >= fewest)
    }
}

/// Goes back where the version itself has come to lie below the floor.
pub(super) fn sink(r: &mut Rollout, now: i64, actions: &mut Vec<Action>) {
    if r.version < r.plan.floor && !r.status.is_final() && r.status != Status::RollingBack {
        let reason = format!(
            "version {} is below the floor: no version under {} may run",
            r.version, r.plan.floor
        );
        go_back(r, &reason, now, actions);
    }
}

/// Goes back where too many devices of a stage failed. `complete`: nobody is waited for any longer.
pub(super) fn stop_if_failing(
    r: &mut Rollout,
    stage: usize,
    complete: bool,
    now: i64,
    actions: &mut Vec<Action>,
) {
    let c = counts_of(r, stage);
    let Some(limits) = r.plan.stages.get(stage) else {
        return;
    };
    let complete = complete || (c.open == 0 && c.offline == 0);
    if c.too_many_failed(limits, complete) {
        let reason = format!(
            "{} of {} devices failed in stage {}, allowed is a share of {}{}",
            c.failed,
            c.failed + c.passed + c.open,
            limits.name,
            limits.max_failed_share,
            why(r, stage)
        );
        go_back(r, &reason, now, actions);
    }
}

/// The commonest reasons of the stage's failures.
fn why(r: &Rollout, stage: usize) -> String {
    let mut tally: BTreeMap<&str, usize> = BTreeMap::new();
    for d in r.devices.values() {
        if d.stages.contains(&stage) && d.state.failed() && !d.reason.is_empty() {
            *tally.entry(&d.reason).or_default() += 1;
        }
    }
    let mut tally: Vec<(&str, usize)> = tally.into_iter().collect();
    tally.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let said: Vec<String> = tally
        .iter()
        .take(3)
        .map(|(reason, n)| format!("{n} x {reason}"))
        .collect();
    if said.is_empty() {
        String::new()
    } else {
        format!("; {}", said.join(", "))
    }
}

/// What the current stage must show, where there is a running model to compare with and somebody to compare them.
pub(super) fn proof(r: &Rollout) -> Option<&Proof> {
    r.back_to().filter(|_| !r.devices.is_empty())?;
    let proof = r.current()?.evidence.as_ref()?;
    (proof.need != Need::None).then_some(proof)
}

/// Whether the driver has to look for evidence.
#[must_use]
pub fn gathers(r: &Rollout) -> bool {
    let going = matches!(r.status, Status::Running | Status::Paused);
    going && r.since.is_some() && proof(r).is_some()
}

/// Goes back where the new model has been shown to be worse than the old one.
pub(super) fn stop_if_harmful(r: &mut Rollout, now: i64, actions: &mut Vec<Action>) {
    if proof(r).is_none() {
        return;
    }
    if let Some(e) = r.evidence.as_ref().filter(|e| e.harmful) {
        let reason = format!("shown to be worse than the champion: {e}");
        go_back(r, &reason, now, actions);
    }
}

/// The floor has come to lie here: nothing below it may run on, also not as what a shadow watches beside.
pub(super) fn raised(r: &mut Rollout, floor: u64, now: i64, actions: &mut Vec<Action>) {
    let champion = r.back_to();
    r.plan.floor = r.plan.floor.max(floor);
    let going = r.since.is_some() && r.current().is_some_and(|s| s.mode == Mode::Shadow);
    let watched = r
        .devices
        .values()
        .any(|d| d.state == DeviceState::Shadowing || (going && d.generation > 0));
    if let Some(version) = champion
        && r.back_to().is_none()
        && watched
        && r.status != Status::RollingBack
    {
        let reason = format!(
            "the champion, version {version}, has come to lie below the floor ({}), and devices run it with this version beside it; start the \
             rollout again",
            r.plan.floor
        );
        go_back(r, &reason, now, actions);
    }
}

/// What the bet on a model being better must have grown to where only no harm is asked for. Harm itself takes 17 to 148 blocks until it
/// is called: a model a fifth worse would be through long before (docs/benchmarks.md has how many pass).
const LIKELY: f64 = 2.0;

/// What the evidence of a stage asks for.
enum Ruling {
    Pass,
    Wait(String),
    Quiet(String),
    Back(String),
}

/// Whether the evidence is what the stage asks for.
#[must_use]
pub fn shown(proof: &Proof, e: &Evidence) -> bool {
    match proof.need {
        Need::Better => e.better,
        Need::NotHarmful => e.blocks >= proof.min_blocks && e.gain >= 0.0 && e.bet_better >= LIKELY,
        Need::None => true,
    }
}

fn ruling(r: &Rollout, now: i64) -> Ruling {
    let Some(proof) = proof(r) else {
        return Ruling::Pass;
    };
    let none = Evidence::default();
    let e = r.evidence.as_ref().unwrap_or(&none);
    if shown(proof, e) {
        return Ruling::Pass;
    }
    if e.blocks >= proof.max_blocks || e.span_ms >= proof.max_span_ms {
        return Ruling::Back(format!("not shown to be better: {e}; the champion stays"));
    }
    let last = r.since.unwrap_or(now).max(e.heard_at);
    if now - last >= proof.quiet_ms {
        return Ruling::Quiet(format!(
            "no new evidence for {} hours ({e}); see that devices are connected and get readings, then resume, or abort",
            (now - last) / 3_600_000
        ));
    }
    Ruling::Wait(format!("gathers evidence: {e}"))
}

/// Judges the current stage.
pub(super) fn stage(r: &mut Rollout, now: i64, actions: &mut Vec<Action>) {
    let (Some(stage), Some(since)) = (r.current().cloned(), r.since) else {
        return;
    };
    time_out(r, &stage, now);
    let overdue = now - since >= stage.deadline_ms;
    let c = counts(r);
    let done = overdue && c.enough(&stage) && c.open == 0;
    stop_if_failing(r, r.stage, done, now, actions);
    if r.status == Status::Running {
        stop_if_harmful(r, now, actions);
    }
    if r.status != Status::Running {
        return;
    }
    if c.members == 0 && r.devices.values().any(|d| d.stages.contains(&r.stage)) {
        r.set(
            Status::Superseded,
            "every device of the stage obeys a newer order",
        );
        return;
    }
    // Offline devices hold a stage up until its deadline: they may be only a moment late.
    let heard = c.open == 0 && (c.offline == 0 || overdue);
    if heard && c.enough(&stage) && (c.passed > 0 || c.members == 0) {
        weigh(r, &stage, now, actions);
        return;
    }
    r.passed_since = None;
    if overdue && c.open == 0 {
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

/// Connected devices that had their time and did not settle.
fn time_out(r: &mut Rollout, stage: &Stage, now: i64) {
    let index = r.stage;
    let too_late = |d: &Deployment| {
        let shadowing = stage.mode == Mode::Shadow && d.state == DeviceState::Shadowing;
        let late = d.online && d.waited(now) >= stage.deadline_ms;
        late && d.stages.contains(&index) && !shadowing && !d.settled()
    };
    r.devices.change(too_late, |_, d| {
        d.reason = format!(
            "connected for {} s, and still {} in stage {}",
            d.waited(now) / 1_000,
            d.state.as_str(),
            stage.name
        );
        d.state = DeviceState::TimedOut;
    });
}

/// The devices are well: what does the evidence say, and has the stage been well for long enough?
fn weigh(r: &mut Rollout, stage: &Stage, now: i64, actions: &mut Vec<Action>) {
    match ruling(r, now) {
        Ruling::Pass => {
            let passed = *r.passed_since.get_or_insert(now);
            if now - passed >= stage.soak_ms {
                end_stage(r, stage, actions);
            }
        }
        Ruling::Wait(reason) => {
            r.passed_since = None;
            r.reason = reason;
        }
        Ruling::Quiet(reason) => {
            r.passed_since = None;
            r.set(Status::Paused, reason);
        }
        Ruling::Back(reason) => go_back(r, &reason, now, actions),
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
