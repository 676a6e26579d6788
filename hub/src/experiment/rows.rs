//! Experiments as rows: owns the translation into the machine, never a decision.

use anyhow::{Context as _, Result};
use fieldcast_drift::arms::Arm;
use fieldcast_store::experiments::{ExperimentRow, MemberRow};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::machine::{Experiment, Member};

const DAY_MS: i64 = 86_400_000;

/// A word of the database as the state that it names.
fn named<T: DeserializeOwned>(word: &str) -> Result<T> {
    serde_json::from_value(json!(word)).with_context(|| {
        format!("`{word}` is unknown to this version; run the newest `fieldcast-hub`")
    })
}

/// An arm as the database has it.
pub(super) fn letter(arm: Arm) -> &'static str {
    match arm {
        Arm::A => "a",
        Arm::B => "b",
    }
}

/// The arm of a row.
///
/// # Errors
/// A row that a newer hub wrote.
pub(super) fn arm_of(row: &MemberRow) -> Result<Arm> {
    named(&row.arm)
}

/// An experiment as its rows have it.
///
/// # Errors
/// A state that a newer hub wrote.
pub(super) fn read(row: &ExperimentRow, members: &[MemberRow]) -> Result<Experiment> {
    let member = |m: &MemberRow| {
        let member = Member {
            arm: arm_of(m)?,
            generation: u64::try_from(m.generation)?,
            state: named(&m.state)?,
            reason: m.reason.clone(),
        };
        Ok((m.device.clone(), member))
    };
    Ok(Experiment {
        id: row.id,
        versions: [u64::try_from(row.version_a)?, u64::try_from(row.version_b)?],
        share_b: row.share_b,
        length_ms: i64::from(row.days) * DAY_MS,
        status: named(&row.status)?,
        reason: row.reason.clone(),
        created_at: row.created_at.timestamp_millis(),
        started_at: row.started_at.map(|t| t.timestamp_millis()),
        ends_at: row.ends_at.map(|t| t.timestamp_millis()),
        members: members.iter().map(member).collect::<Result<_>>()?,
        generation: 0,
    })
}
