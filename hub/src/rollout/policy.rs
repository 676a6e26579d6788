//! How a forecaster's new models reach devices when no person plans it: owns the `[rollout]` table and the plan it makes,
//! never a rollout.

use std::collections::BTreeMap;

use fieldcast_features::grid::parse_period;
use serde::{Deserialize, Serialize};

use super::plan::{Mode, Need, Plan, Proof, Stage, labelled, settles_ms};

const DAY_MS: i64 = 86_400_000;
const DEADLINE_MS: i64 = 2 * 3_600_000;

/// The `[rollout]` table of a forecaster's definition; what it leaves out keeps its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Who gets a new model active before everyone, in this order; the first are the canaries.
    pub stages: Vec<Group>,
    /// How long a stage must stay well before the next, as `30m`; `0s`: not at all.
    pub soak: String,
    /// How long a connected device has to settle, and for how long a stage waits for those that are away; left out: two hours, or
    /// eight of the forecaster's periods where that is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// Each active stage after the canaries' waits for a person.
    pub approval: bool,
    /// Lowest model version that devices may run, also when they go back; 0: any.
    pub floor: u64,
    /// What a challenger must show in shadow before the first stage.
    pub evidence: Evidence,
}

/// Devices of one stage: a share of all, or of those that carry labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a stage is a percentage such as 25, or a table such as { labels = { line = \"a\" }, percent = 50 }"
)]
pub enum Group {
    /// Cumulative percentage of the devices, rounded up.
    Percent(u8),
    /// Devices with labels.
    Labelled(Labelled),
}

/// Devices that carry labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labelled {
    /// All of these.
    pub labels: BTreeMap<String, String>,
    /// Share of them, rounded up.
    #[serde(default = "everyone")]
    pub percent: u8,
}

fn everyone() -> u8 {
    100
}

/// The table `[rollout.evidence]`: what a challenger must show beside the champion, on the same windows, before it is given
/// to anyone in its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evidence {
    /// `better`, `not_harmful` or `none` (no shadow stage). Left out: `not_harmful` where the champion's own errors showed that the
    /// world has changed and the judge found the challenger better, `better` otherwise.
    pub need: Option<Need>,
    /// Share of the devices that watch, percent, rounded up.
    pub percent: u8,
    /// At least so many of them, where there are as many.
    pub devices: usize,
    /// Fewest blocks (each the longer of horizon and season) for `not_harmful`.
    pub min_blocks: u32,
    /// Blocks after which a challenger that has not been shown to be better goes back.
    pub max_blocks: u32,
    /// The same in data time, as `120d`.
    pub within: String,
    /// Process time without a new block after which the rollout pauses and asks for a person.
    pub quiet: String,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            stages: vec![Group::Percent(5), Group::Percent(25)],
            soak: "30m".into(),
            deadline: None,
            approval: false,
            floor: 0,
            evidence: Evidence::default(),
        }
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            need: None,
            percent: 5,
            devices: 5,
            min_blocks: 7,
            max_blocks: 60,
            within: "120d".into(),
            quiet: "14d".into(),
        }
    }
}

/// Why a policy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`rollout.{field}` {problem}")]
pub struct PolicyError {
    field: &'static str,
    problem: String,
}

/// What is rolled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A forecaster's first model: nothing runs that it could be compared with.
    First,
    /// A model of another target, period or horizon than the champion's: their losses cannot be compared.
    Incomparable,
    /// A model that forecasts what the champion forecasts.
    Challenger,
    /// The same, of a champion that is known to fail: its errors have grown, and days pass while nobody takes its place.
    Successor,
}

fn span(text: &str) -> Result<i64, String> {
    if text == "0s" {
        return Ok(0);
    }
    parse_period(text)
}

impl Policy {
    /// # Errors
    /// The field and what is allowed.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let refuse = |field, problem: String| Err(PolicyError { field, problem });
        let e = &self.evidence;
        span(&self.soak).or_else(|problem| refuse("soak", problem).map(|()| 0))?;
        for (field, text) in [("evidence.within", &e.within), ("evidence.quiet", &e.quiet)] {
            parse_period(text).or_else(|problem| refuse(field, problem).map(|()| 0))?;
        }
        if let Some(text) = &self.deadline {
            parse_period(text).or_else(|problem| refuse("deadline", problem).map(|()| 0))?;
        }
        if !(1..=100).contains(&e.percent) {
            return refuse("evidence.percent", "must be 1 to 100".into());
        }
        if e.devices == 0 {
            return refuse("evidence.devices", "must be at least 1".into());
        }
        if e.min_blocks == 0 || e.max_blocks < e.min_blocks {
            let problem = "must be at least min_blocks, and that at least 1";
            return refuse("evidence.max_blocks", problem.into());
        }
        for kind in [
            Kind::First,
            Kind::Incomparable,
            Kind::Challenger,
            Kind::Successor,
        ] {
            let plan = self.plan(kind, DAY_MS).validate();
            plan.or_else(|e| refuse("stages", format!("make no plan: {e}")))?;
        }
        Ok(())
    }

    /// The plan for a rollout that no person planned, of a forecaster with a grid of `period_ms`.
    #[must_use]
    pub fn plan(&self, kind: Kind, period_ms: i64) -> Plan {
        let ms = |text: &str| span(text).unwrap_or(DAY_MS);
        let soak = ms(&self.soak);
        let settles = DEADLINE_MS.max(settles_ms(period_ms));
        let deadline = self.deadline.as_deref().map_or(settles, ms);
        let stage = |name: &str, mode, percent| Stage {
            soak_ms: soak,
            max_failed_share: 0.1,
            ..Stage::usual(name, mode, percent, deadline)
        };
        let mut stages = Vec::new();
        let e = &self.evidence;
        let need = match kind {
            Kind::First | Kind::Incomparable => Need::None,
            Kind::Challenger => e.need.unwrap_or(Need::Better),
            Kind::Successor => e.need.unwrap_or(Need::NotHarmful),
        };
        if need != Need::None {
            let proof = Proof {
                need,
                min_blocks: e.min_blocks,
                max_blocks: e.max_blocks,
                max_span_ms: ms(&e.within),
                quiet_ms: ms(&e.quiet),
            };
            stages.push(Stage {
                soak_ms: 0,
                min_devices: e.devices,
                evidence: Some(proof),
                ..stage("shadow", Mode::Shadow, e.percent)
            });
        }
        // A first model has no stages between: what runs until then is only the device's own baseline.
        let groups = match kind {
            Kind::First => self.stages.get(..1).unwrap_or_default(),
            _ => &self.stages[..],
        };
        for (i, group) in groups.iter().enumerate() {
            let (labels, percent) = match group {
                Group::Percent(percent) => (BTreeMap::new(), *percent),
                Group::Labelled(l) => (l.labels.clone(), l.percent),
            };
            let name = match (i, labels.is_empty()) {
                (0, _) => "canary".to_owned(),
                (_, true) => format!("{percent} %"),
                (_, false) => labelled(&labels),
            };
            stages.push(Stage {
                labels,
                approval: self.approval && i > 0,
                ..stage(&name, Mode::Active, percent)
            });
        }
        stages.push(Stage {
            approval: self.approval,
            soak_ms: 0,
            ..stage("all", Mode::Active, 100)
        });
        Plan {
            stages,
            floor: self.floor,
        }
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
