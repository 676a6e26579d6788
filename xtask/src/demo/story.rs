//! What the hub did, in the order of its doing: owns turning its lists into sentences, each told once; never asks for them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The hub's lists at one moment, newest first.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) decisions: Vec<Value>,
    pub(crate) runs: Vec<Value>,
    pub(crate) rollouts: Vec<Value>,
    pub(crate) champion: Option<u64>,
}

impl News {
    /// Whether a training is queued or under way.
    pub(crate) fn is_training(&self) -> bool {
        self.running().is_some()
    }

    fn running(&self) -> Option<&Value> {
        let live = |r: &&Value| matches!(r["status"].as_str(), Some("queued" | "running"));
        self.runs.iter().find(live)
    }

    /// One line for the progress bar.
    pub(crate) fn state(&self) -> String {
        let champion = self
            .champion
            .map_or_else(|| "no champion".into(), |v| format!("champion {v}"));
        match self.running() {
            Some(run) => format!(
                "{champion}, training: {} ({:.0} %)",
                run["progress_text"].as_str().unwrap_or("waiting"),
                100.0 * run["progress"].as_f64().unwrap_or(0.0)
            ),
            None => champion,
        }
    }
}

/// Which things were told already.
#[derive(Debug, Default)]
pub(crate) struct Story {
    decisions: BTreeSet<i64>,
    rollouts: BTreeMap<i64, String>,
    told_before: bool,
}

impl Story {
    /// Sentences about what is new, oldest first. What happened before the first call is no news.
    pub(crate) fn tell(&mut self, news: &News) -> Vec<String> {
        let mut lines = Vec::new();
        for decision in news.decisions.iter().rev() {
            let fresh = decision["id"]
                .as_i64()
                .is_some_and(|id| self.decisions.insert(id));
            let reason = decision["reason"].as_str().unwrap_or_default();
            if fresh {
                lines.extend(match decision["decision"].as_str() {
                    Some("retrain") => Some(format!("drift confirmed, the hub retrains: {reason}")),
                    Some("roll_out") => Some(format!("challenger judged better: {reason}")),
                    Some("keep") => Some(format!(
                        "challenger judged no better, the champion stays: {reason}"
                    )),
                    // Waiting and looking again are the hub's daily business.
                    _ => None,
                });
            }
        }
        for rollout in news.rollouts.iter().rev() {
            let (Some(id), Some(status)) = (rollout["id"].as_i64(), rollout["status"].as_str())
            else {
                continue;
            };
            if self.rollouts.insert(id, status.to_owned()).as_deref() != Some(status) {
                let version = &rollout["model_version"];
                lines.push(match status {
                    "running" => format!("rollout {id}: version {version} goes to the devices"),
                    "succeeded" => {
                        format!("rollout {id} succeeded: every device runs version {version}")
                    }
                    _ => format!(
                        "rollout {id} of version {version}: {status} {}",
                        rollout["reason"].as_str().unwrap_or_default()
                    ),
                });
            }
        }
        if !std::mem::replace(&mut self.told_before, true) {
            lines.clear();
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn each_thing_is_told_once_in_its_order_and_the_past_is_not() {
        let mut story = Story::default();
        let mut news = News {
            rollouts: vec![json!({"id": 1, "status": "running", "model_version": 1, "reason": ""})],
            ..News::default()
        };
        assert!(story.tell(&news).is_empty());
        news.decisions = vec![
            json!({"id": 9, "decision": "roll_out", "reason": "loss falls"}),
            json!({"id": 8, "decision": "wait", "reason": "3 days"}),
            json!({"id": 7, "decision": "retrain", "reason": "since May"}),
        ];
        news.rollouts[0]["status"] = json!("succeeded");
        let lines = story.tell(&news);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[0].contains("since May")
                && lines[1].contains("loss falls")
                && lines[2].contains("version 1")
        );
        assert!(story.tell(&news).is_empty());
    }

    #[test]
    fn a_training_under_way_is_seen_with_its_progress() {
        let mut news = News {
            champion: Some(2),
            ..News::default()
        };
        assert!(!news.is_training());
        news.runs = vec![json!({"status": "running", "progress": 0.5, "progress_text": "epoch 3"})];
        assert!(
            news.is_training()
                && news.state().contains("champion 2")
                && news.state().contains("50 %")
        );
    }
}
