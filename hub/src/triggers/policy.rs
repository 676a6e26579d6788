//! When a forecaster is retrained: owns the policy and the decision as a pure function, never data or a job.

use fieldcast_features::Millis;
use fieldcast_features::grid::parse_period;
use fieldcast_train::TrainConfig;
use serde::{Deserialize, Serialize};

use crate::judge::Gate;

const DAY_MS: Millis = 86_400_000;

/// The `[retraining]` table of a forecaster's definition; what it leaves out keeps its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// When devices find that errors have grown, and the hub finds it too.
    pub drift: bool,
    /// When the hub finds that errors have grown beyond the calibration, without a device's word.
    pub error: bool,
    /// When the data since the world last changed are so many times what was learnt from; 0: never. 2 retrains ever more
    /// seldom: a model that had two weeks of a new world gets four, then eight.
    pub growth: f64,
    /// When so much data time has passed since the newest data that were learnt from, as `90d`; none: never.
    pub every: Option<String>,
    /// Data time from one retraining to the next, whatever asks for it.
    pub cool_down: String,
    /// Most retrainings in 24 hours of process time.
    pub a_day: u32,
    /// Smallest share of good values of target and inputs over the grid of a snapshot.
    pub min_quality: f64,
    /// Largest part of what speaks for a change that may come from one device, while at least two others do not show it without that
    /// one.
    pub max_device_share: f64,
    /// Largest share by which a new model's loss on older times may rise.
    pub max_old_loss: f64,
    /// Bounds of the share of actual values inside a new model's 80 % interval.
    pub coverage: [f64; 2],
    /// Whether heads that begin at the champion's weights are trained too, and kept where they are better.
    pub warm_start: bool,
    /// Forecaster whose champion's heads are tried as a beginning too, as long as this one has no champion; none: random numbers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begin_with: Option<String>,
    /// Settings of every training that brings none of its own, as the table `[retraining.training]`; none: the defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainConfig>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            drift: true,
            error: true,
            growth: 2.0,
            every: None,
            cool_down: "14d".into(),
            a_day: 24,
            min_quality: 0.7,
            max_device_share: 0.5,
            max_old_loss: Gate::default().max_old_loss,
            coverage: Gate::default().coverage,
            warm_start: false,
            begin_with: None,
            training: None,
        }
    }
}

/// Why a policy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`retraining.{field}` {problem}")]
pub struct PolicyError {
    field: &'static str,
    problem: String,
}

/// What asks for a retraining.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// More data of the present world.
    Volume,
    /// Time.
    Schedule,
}

impl Trigger {
    /// Its name in requests and decisions.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Schedule => "schedule",
        }
    }
}

/// A retraining that volume or time asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Which of them.
    pub trigger: Trigger,
    /// Why, in words.
    pub why: String,
    /// Since when, data time.
    pub since: Millis,
}

/// How long a retraining that is due waits, in data time, while a change of the world is suspected: by then it is confirmed, which asks
/// for another training, or the suspicion is a season's.
const DOUBT_MS: Millis = 28 * DAY_MS;

/// What is known of a forecaster, all in data time but `today`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Newest reading of the target.
    pub now: Millis,
    /// Since when the world is as it is: the onset that the champion was made for, else its first row.
    pub world: Millis,
    /// Newest row that the champion, or a challenger that was no better, had.
    pub learnt: Millis,
    /// The last retraining.
    pub last: Option<Millis>,
    /// Retrainings in the last 24 hours of process time.
    pub today: u32,
}

impl Policy {
    /// # Errors
    /// The field and what is allowed.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let refuse = |field, problem: String| Err(PolicyError { field, problem });
        if self.growth != 0.0 && !(1.1..=100.0).contains(&self.growth) {
            return refuse("growth", "must be 1.1 to 100, or 0 for never".into());
        }
        let texts = [
            ("every", self.every.as_ref()),
            ("cool_down", Some(&self.cool_down)),
        ];
        for (field, text) in texts {
            if let Some(text) = text
                && let Err(problem) = parse_period(text)
            {
                return refuse(field, problem);
            }
        }
        if !(1..=1_000).contains(&self.a_day) {
            return refuse("a_day", "must be 1 to 1000".into());
        }
        let shares = [
            ("min_quality", self.min_quality, 0.0),
            ("max_device_share", self.max_device_share, 0.5),
        ];
        for (field, value, least) in shares {
            if !(least..=1.0).contains(&value) {
                return refuse(field, format!("must be {least} to 1"));
            }
        }
        if !(0.0..=10.0).contains(&self.max_old_loss) {
            return refuse("max_old_loss", "must be 0 to 10".into());
        }
        let [low, high] = self.coverage;
        if !(0.0 <= low && low < high && high <= 1.0) {
            return refuse(
                "coverage",
                "must be two shares from 0 to 1, the smaller first".into(),
            );
        }
        if let Some(Err(e)) = self.training.as_ref().map(TrainConfig::validate) {
            return refuse("training", e.to_string());
        }
        Ok(())
    }

    /// What a new model must show.
    #[must_use]
    pub fn gate(&self) -> Gate {
        Gate {
            max_old_loss: self.max_old_loss,
            coverage: self.coverage,
            ..Gate::default()
        }
    }

    /// The cool-down in days, rounded up.
    #[must_use]
    pub fn cool_down_days(&self) -> i64 {
        (self.cool_down_ms() + DAY_MS - 1) / DAY_MS
    }

    fn cool_down_ms(&self) -> Millis {
        parse_period(&self.cool_down).unwrap_or(14 * DAY_MS)
    }
}

/// Whether volume or time asks for a retraining, and why.
#[must_use]
pub fn due(policy: &Policy, facts: &Facts) -> Option<Due> {
    let days = |span: Millis| span / DAY_MS;
    let (had, has) = (facts.learnt - facts.world, facts.now - facts.world);
    let growth = policy.growth;
    if growth > 0.0 && had > 0 && has as f64 >= growth * had as f64 {
        let why = format!(
            "{} days of the present world are there, the last training had {} of them (asked: {growth} times)",
            days(has),
            days(had)
        );
        return Some(Due {
            trigger: Trigger::Volume,
            why,
            since: facts.world + (growth * had as f64) as Millis,
        });
    }
    let every = parse_period(policy.every.as_deref()?).ok()?;
    let since = facts.now - facts.learnt;
    (since >= every).then(|| Due {
        trigger: Trigger::Schedule,
        why: format!(
            "{} days have passed since the newest data that were learnt from (every {})",
            days(since),
            policy.every.as_deref().unwrap_or_default()
        ),
        since: facts.learnt + every,
    })
}

/// Whether a retraining that is due may still wait for a suspicion to be settled: learnt across a change, a model would take both
/// worlds for one.
#[must_use]
pub fn may_doubt(facts: &Facts, due: &Due) -> bool {
    facts.now - due.since < DOUBT_MS
}

/// Why a retraining must wait: the decision's word and the reason.
#[must_use]
pub fn held(policy: &Policy, facts: &Facts) -> Option<(&'static str, String)> {
    if facts.today >= policy.a_day {
        let why = format!(
            "{} retrainings in the last 24 hours, {} are allowed",
            facts.today, policy.a_day
        );
        return Some(("budget", why));
    }
    let next = facts.last? + policy.cool_down_ms();
    (facts.now < next).then(|| {
        let why = format!(
            "the next retraining may begin {} days of data later (cool-down {})",
            (next - facts.now) / DAY_MS + 1,
            policy.cool_down
        );
        ("cool_down", why)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn facts(now: Millis, world: Millis, learnt: Millis) -> Facts {
        Facts {
            now: now * DAY_MS,
            world: world * DAY_MS,
            learnt: learnt * DAY_MS,
            last: None,
            today: 0,
        }
    }

    #[test]
    fn a_model_of_a_short_world_is_made_anew_when_its_data_have_doubled() {
        let policy = Policy::default();
        assert_eq!(due(&policy, &facts(423, 400, 412)), None);
        let volume = due(&policy, &facts(424, 400, 412)).unwrap();
        assert_eq!(
            (volume.trigger, volume.since),
            (Trigger::Volume, 424 * DAY_MS)
        );
        assert!(
            volume.why.starts_with("24 days of the present world"),
            "{volume:?}"
        );
        // A year learnt: not before another year.
        assert_eq!(due(&policy, &facts(700, 0, 365)), None);
        let never = Policy {
            growth: 0.0,
            ..policy
        };
        assert_eq!(due(&never, &facts(9_000, 400, 412)), None);
        // A champion that was made for an onset behind its newest row has learnt nothing of it.
        assert_eq!(due(&Policy::default(), &facts(430, 412, 412)), None);
    }

    #[test]
    fn time_cool_down_and_budget() {
        let policy = Policy {
            growth: 0.0,
            every: Some("90d".into()),
            ..Policy::default()
        };
        assert_eq!(due(&policy, &facts(189, 0, 100)), None);
        let mut facts = facts(190, 0, 100);
        assert_eq!(due(&policy, &facts).unwrap().trigger, Trigger::Schedule);
        assert_eq!(held(&policy, &facts), None);
        facts.last = Some(180 * DAY_MS);
        let (word, why) = held(&policy, &facts).unwrap();
        assert!(word == "cool_down" && why.contains("5 days"), "{why}");
        facts.last = Some(176 * DAY_MS);
        assert_eq!(held(&policy, &facts), None);
        facts.today = 24;
        assert_eq!(held(&policy, &facts).unwrap().0, "budget");
    }

    #[test]
    fn what_is_due_waits_four_weeks_at_most_for_a_suspicion() {
        let policy = Policy::default();
        let at = |day| {
            let facts = facts(day, 400, 412);
            may_doubt(&facts, &due(&policy, &facts).unwrap())
        };
        assert!(at(424) && at(451));
        assert!(
            !at(452),
            "data that have stood for four weeks are learnt from"
        );
    }

    #[test]
    fn a_policy_that_cannot_be_meant_is_refused_with_its_field() {
        let read = |text: &str| serde_json::from_str::<Policy>(text).unwrap().validate();
        assert!(read("{}").is_ok() && read(r#"{"every": "12w"}"#).is_err());
        for (text, field) in [
            (r#"{"growth": 1.0}"#, "growth"),
            (r#"{"every": "soon"}"#, "every"),
            (r#"{"cool_down": ""}"#, "cool_down"),
            (r#"{"a_day": 0}"#, "a_day"),
            (r#"{"min_quality": 1.5}"#, "min_quality"),
            (r#"{"max_device_share": 0.4}"#, "max_device_share"),
            (r#"{"max_old_loss": -0.1}"#, "max_old_loss"),
            (r#"{"coverage": [0.9, 0.7]}"#, "coverage"),
            (r#"{"training": {"seeds": 0}}"#, "training"),
        ] {
            let refused = read(text).unwrap_err().to_string();
            assert!(refused.contains(field), "{refused}");
        }
        assert!(serde_json::from_str::<Policy>(r#"{"often": 1}"#).is_err());
    }
}
