//! Watches the champion while a rollout is open: owns whether the world has changed since the rollout's version learnt from it and
//! what is asked then, never how the rollout goes back.
//!
//! A shadow may last for weeks of data. A version that learnt from the world before is no answer to this one: its rollout goes back, and
//! the check that follows finds the onset and asks for the retraining, as ever.

use anyhow::Result;
use chrono::DateTime;
use fieldcast_features::Millis;
use fieldcast_store::Store;
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::drift_reports::OpenSignal;
use fieldcast_store::forecasters::ForecasterRow;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::rollouts::{BY_TRAINING, RolloutRow};

use super::later::{self, Known};
use super::verdict::{Rules, Verdict};
use super::{BEFORE_MS, daily_errors, document, promise_of};
use crate::training::admit;
use crate::triggers;

/// An open rollout whose version may become outdated.
pub(super) struct Open<'a> {
    row: &'a RolloutRow,
    /// What its version knows of the world.
    pub known: Known,
}

impl<'a> Open<'a> {
    /// None where nobody can tell (a version made elsewhere), where there is nothing to go back to, and where it goes back already.
    pub(super) async fn of(
        store: &Store,
        row: &'a RolloutRow,
        champion: &ModelVersionRow,
    ) -> Result<Option<Self>> {
        let replaces =
            row.previous_version == Some(champion.version) && row.model_version != champion.version;
        if row.status == "rolling_back" || !replaces {
            return Ok(None);
        }
        let Some(version) = store
            .model_version(&row.forecaster, row.model_version)
            .await?
        else {
            return Ok(None);
        };
        let time = |of: &ModelVersionRow, key: &str| of.lineage[key].as_i64();
        let Some((until, champions)) =
            time(&version, "data_until").zip(time(champion, "data_until"))
        else {
            return Ok(None);
        };
        // What it was made for may be the world that the champion was made for, too.
        let since = time(&version, "onset").filter(|onset| *onset > champions);
        let known = Known { since, until };
        Ok(Some(Self { row, known }))
    }

    /// Where the days begin that are judged.
    fn from(&self, champion: &ModelVersionRow) -> Millis {
        let earliest = self.known.until - BEFORE_MS;
        self.known.since.unwrap_or_else(|| {
            champion.lineage["data_until"]
                .as_i64()
                .unwrap_or(earliest)
                .max(earliest)
        })
    }
}

/// Looks whether the open rollout's version is outdated, and asks that it goes back.
pub(super) async fn look(
    store: &Store,
    rules: &Rules,
    (forecaster, champion): (&ForecasterRow, &ModelVersionRow),
    signals: &[OpenSignal],
    (open, now): (&Open<'_>, Millis),
) -> Result<()> {
    let (spec, row) = (&forecaster.spec, open.row);
    let policy = triggers::policy_of(forecaster)?;
    let unasked = signals.is_empty();
    if (unasked && !policy.error) || champion.manifest["calibration"]["daily"].is_null() {
        return Ok(());
    }
    let promise = promise_of(champion)?;
    let of = (champion.version, promise.least_observed());
    let mut days = daily_errors(store, spec, of, open.from(champion)).await?;
    if unasked {
        days.retain(|d| promise.levels.contains_key(&d.device));
    }
    // A level of a week, looked at again and again and in two directions: whoever asks, only what is sure counts.
    let rules = Rules {
        min_t: rules.min_t_unasked,
        ..*rules
    };
    let Some(later) = later::change(&days, &promise, open.known, &rules) else {
        return Ok(());
    };
    let time = |ms: Millis| DateTime::from_timestamp_millis(ms).unwrap_or_else(crate::clock::now);
    let judged = &later.verdict;
    // The verdict's own words are those of a comparison with the champion's promise.
    let told = Verdict {
        words: later.words.clone(),
        ..judged.clone()
    };
    let report = document(&told, signals, &promise, &rules, &days);
    let onset = (time(judged.onset), time(now));
    let report = store
        .add_drift_report(
            "concept",
            (&spec.name, champion.version),
            onset,
            true,
            &report,
        )
        .await?;
    let learnt = format!(
        "version {} of rollout {} learnt until {} only",
        row.model_version,
        row.id,
        time(open.known.until).format("%Y-%m-%d")
    );
    let (decision, reason) = match admit::change(&judged.devices, rules.min_ratio, &policy) {
        Err(alone) => ("refused", alone.to_string()),
        Ok(()) if row.created_by.starts_with(BY_TRAINING) => {
            ("outdated", format!("outdated: {}; {learnt}", later.words))
        }
        Ok(()) => (
            "wait",
            format!(
                "{}; {learnt}, and {} began that: `rollout abort {}` ends it",
                later.words, row.created_by, row.id
            ),
        ),
    };
    let new = NewDecision {
        forecaster: &spec.name,
        decision,
        reason: &reason,
        drift_report: Some(report),
        data_time: Some(time(now)),
        decided_by: "drift check",
        ..NewDecision::default()
    };
    if decision != "outdated" {
        store.record_decision(&new).await?;
    } else if !store.outdate_rollout(row.id, &new).await? {
        // It has ended meanwhile, or another hub was first.
        return Ok(());
    }
    tracing::info!(
        forecaster = spec.name,
        rollout = row.id,
        decision,
        reason,
        "drift"
    );
    Ok(())
}
