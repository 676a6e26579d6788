//! The plan of a rollout: owns its stages and their limits as data, never acts on them.

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

/// One stage: which share of the fleet, how, and when it counts as passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Name shown to people.
    pub name: String,
    /// Shadow or active.
    pub mode: Mode,
    /// Cumulative share of the devices, percent, chosen by a hash of rollout and device.
    pub percent: u8,
    /// Process time after which online devices that have not settled count as timed out, milliseconds.
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
}

pub(super) fn min_failed() -> usize {
    3
}

/// Stages in order; the last one has `percent` 100.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Stages in order.
    pub stages: Vec<Stage>,
}

/// A plan that cannot be carried out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("rollout plan: {0}")]
pub struct PlanError(String);

impl Plan {
    /// All devices at once, active: the plan used where none is given.
    #[must_use]
    pub fn all_at_once() -> Self {
        Self {
            stages: vec![Stage {
                name: "all".into(),
                mode: Mode::Active,
                percent: 100,
                deadline_ms: 30 * 60_000,
                soak_ms: 0,
                max_failed_share: 0.34,
                min_failed: min_failed(),
                min_online_share: 0.5,
                approval: false,
            }],
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
        if last.percent != 100 || last.mode != Mode::Active {
            return fail(format!(
                "the last stage `{}` must be active with percent 100",
                last.name
            ));
        }
        let mut before = 0;
        for stage in &self.stages {
            let share = |v: f64| (0.0..=1.0).contains(&v);
            if stage.percent == 0 || stage.percent > 100 {
                return fail(format!("stage `{}`: percent must be 1 to 100", stage.name));
            }
            if stage.mode == Mode::Active && stage.percent < before {
                return fail(format!(
                    "stage `{}`: percent must not fall from stage to stage",
                    stage.name
                ));
            }
            if stage.deadline_ms <= 0 || stage.soak_ms < 0 {
                return fail(format!(
                    "stage `{}`: deadline_ms must be positive, soak_ms not negative",
                    stage.name
                ));
            }
            if !share(stage.max_failed_share) || !share(stage.min_online_share) {
                return fail(format!(
                    "stage `{}`: shares must be from 0 to 1",
                    stage.name
                ));
            }
            if stage.mode == Mode::Active {
                before = stage.percent;
            }
        }
        Ok(())
    }

    /// The stage in which a device gets the new model active or in shadow, as index, for `bucket` of
    /// 0..100; the same device falls into the same bucket in every stage.
    #[must_use]
    pub fn member(&self, stage: usize, bucket: u8) -> bool {
        self.stages.get(stage).is_some_and(|s| bucket < s.percent)
    }
}
