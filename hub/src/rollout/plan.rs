//! The plan of a rollout: owns its stages and their limits as data and who takes part in which, never acts on them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a device runs the new model in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Beside the running model; its forecasts count only as evidence.
    Shadow,
    /// In place of the running model.
    Active,
}

/// What a shadow stage must show of the new model beside the running one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// That it is better.
    #[default]
    Better,
    /// That over so many blocks it was not called worse, and looks rather better.
    NotHarmful,
    /// Nothing.
    None,
}

/// How long a shadow stage gathers evidence, and for what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// What must be shown.
    pub need: Need,
    /// Fewest blocks after which `not_harmful` passes.
    pub min_blocks: u32,
    /// Blocks after which a model that has not been shown to be better goes back.
    pub max_blocks: u32,
    /// The same as data time since the first block began, milliseconds.
    pub max_span_ms: i64,
    /// Process time without a new block after which the rollout pauses, milliseconds.
    pub quiet_ms: i64,
}

/// One stage: which share of the fleet, how, and when it counts as passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Name shown to people.
    pub name: String,
    /// Shadow or active.
    pub mode: Mode,
    /// Only devices that carry all of these; empty: every device.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Cumulative share of those devices, percent, chosen by a hash of rollout and device; rounded up.
    #[serde(default = "everyone")]
    pub percent: u8,
    /// At least so many devices, where there are as many.
    #[serde(default = "one")]
    pub min_devices: usize,
    /// Process time that a connected device has to settle from its order on, and for which the stage waits for those that
    /// are away, milliseconds.
    pub deadline_ms: i64,
    /// Time that the stage must stay passed before the next begins, milliseconds.
    #[serde(default)]
    pub soak_ms: i64,
    /// Largest share of heard devices that may fail; above it the rollout goes back.
    pub max_failed_share: f64,
    /// Fewest failures that send a rollout back before everyone has been heard; half of the stage's devices where that is less.
    #[serde(default = "min_failed")]
    pub min_failed: usize,
    /// Smallest share of the stage's devices that must have been heard for the stage to pass.
    pub min_online_share: f64,
    /// The stage begins only after a person approves.
    #[serde(default)]
    pub approval: bool,
    /// What must be shown; only in shadow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Proof>,
}

fn everyone() -> u8 {
    100
}

fn one() -> usize {
    1
}

fn min_failed() -> usize {
    3
}

/// Stages in order; the last one has `percent` 100.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Stages in order.
    pub stages: Vec<Stage>,
    /// Lowest model version that this rollout may order, also when it goes back; 0: any.
    #[serde(default)]
    pub floor: u64,
}

/// A plan that cannot be carried out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("rollout plan: {0}")]
pub struct PlanError(String);

/// A device that may take part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name.
    pub device: String,
    /// A hash of rollout and device: the lowest come first.
    pub rank: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Labels in words.
pub(super) fn labelled(labels: &BTreeMap<String, String>) -> String {
    let named: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    named.join(",")
}

impl Stage {
    /// A stage with the usual limits.
    #[must_use]
    pub fn usual(name: &str, mode: Mode, percent: u8, deadline_ms: i64) -> Self {
        Self {
            name: name.to_owned(),
            mode,
            labels: BTreeMap::new(),
            percent,
            min_devices: one(),
            deadline_ms,
            soak_ms: 0,
            max_failed_share: 0.34,
            min_failed: min_failed(),
            min_online_share: 0.5,
            approval: false,
            evidence: None,
        }
    }

    fn takes(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// Periods in which a device has a row begun, the five forecasts of its probation made, and one of them late.
const SETTLES_WITHIN: i64 = 8;

/// What a model takes at most until it has proved itself on a grid of `period_ms`, milliseconds.
pub(super) fn settles_ms(period_ms: i64) -> i64 {
    period_ms.saturating_mul(SETTLES_WITHIN)
}

impl Plan {
    /// All devices at once, active, for a forecaster with a grid of `period_ms`.
    #[must_use]
    pub fn all_at_once(period_ms: i64) -> Self {
        let deadline = settles_ms(period_ms).max(30 * 60_000);
        Self {
            stages: vec![Stage::usual("all", Mode::Active, 100, deadline)],
            floor: 0,
        }
    }

    /// Checks the stages against each other.
    ///
    /// # Errors
    /// The first rule that is broken, and how to keep it.
    pub fn validate(&self) -> Result<(), PlanError> {
        let fail = |text: String| Err(PlanError(text));
        let Some(last) = self.stages.last() else {
            return fail("has no stage; give at least one, such as `all`".into());
        };
        if last.percent != 100 || last.mode != Mode::Active || !last.labels.is_empty() {
            return fail(format!(
                "the last stage `{}` must be active with percent 100 and without labels",
                last.name
            ));
        }
        let mut before: Vec<&Stage> = Vec::new();
        for stage in &self.stages {
            self.check(stage, &before)
                .or_else(|problem| fail(format!("stage `{}`: {problem}", stage.name)))?;
            before.push(stage);
        }
        Ok(())
    }

    fn check(&self, stage: &Stage, before: &[&Stage]) -> Result<(), String> {
        let share = |v: f64| (0.0..=1.0).contains(&v);
        let alike = |s: &&&Stage| {
            s.mode == Mode::Active && s.labels == stage.labels && s.percent > stage.percent
        };
        if stage.percent == 0 || stage.percent > 100 {
            return Err("percent must be 1 to 100".into());
        }
        if stage.mode == Mode::Active && before.iter().any(|s| alike(&s)) {
            return Err("percent must not fall from stage to stage".into());
        }
        if stage.deadline_ms <= 0 || stage.soak_ms < 0 {
            return Err("deadline_ms must be positive, soak_ms not negative".into());
        }
        if !share(stage.max_failed_share) || !share(stage.min_online_share) {
            return Err("shares must be from 0 to 1".into());
        }
        if stage.min_failed == 0 || stage.min_devices == 0 {
            return Err("min_failed and min_devices must be at least 1".into());
        }
        let Some(proof) = &stage.evidence else {
            return Ok(());
        };
        if stage.mode == Mode::Active {
            return Err(
                "evidence is gathered in shadow; set mode = \"shadow\" or leave it out".into(),
            );
        }
        if proof.min_blocks == 0 || proof.max_blocks < proof.min_blocks {
            return Err(
                "evidence needs min_blocks of at least 1 and max_blocks of at least min_blocks"
                    .into(),
            );
        }
        if proof.max_span_ms <= 0 || proof.quiet_ms <= 0 {
            return Err("evidence needs a positive max_span_ms and quiet_ms".into());
        }
        Ok(())
    }

    /// Stages whose labels no device carries, where there are devices: a word that is written wrongly would skip them.
    #[must_use]
    pub fn unmatched(&self, members: &[Member]) -> Vec<usize> {
        let nobody = |stage: &Stage| !members.iter().any(|m| stage.takes(&m.labels));
        let stages = self.stages.iter().enumerate();
        let unmatched = stages.filter(|(_, stage)| !members.is_empty() && nobody(stage));
        unmatched.map(|(number, _)| number).collect()
    }

    /// For each device the stages in which it takes part. Whoever got the new model active takes part in every later active
    /// stage: what becomes of it counts until the end.
    #[must_use]
    pub fn membership(&self, members: &[Member]) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|i| (members[*i].rank, &members[*i].device));
        let mut stages = vec![Vec::new(); members.len()];
        let mut active = vec![false; members.len()];
        for (number, stage) in self.stages.iter().enumerate() {
            let candidates: Vec<usize> = order
                .iter()
                .copied()
                .filter(|i| stage.takes(&members[*i].labels))
                .collect();
            let share = (candidates.len() * usize::from(stage.percent)).div_ceil(100);
            let mut chosen = vec![false; members.len()];
            for i in candidates.into_iter().take(share.max(stage.min_devices)) {
                chosen[i] = true;
            }
            for i in 0..members.len() {
                if stage.mode == Mode::Active {
                    active[i] |= chosen[i];
                    chosen[i] = active[i];
                }
                if chosen[i] {
                    stages[i].push(number);
                }
            }
        }
        stages
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
