//! A device's state as JSON for people and for the tables: owns names and shape, never a decision.

use fieldcast_store::time::timestamp;
use fieldcast_wire::pb;
use serde_json::{Value, json};

use crate::signing::hex;

fn phase(phase: pb::ModelPhase) -> &'static str {
    match phase {
        pb::ModelPhase::None => "none",
        pb::ModelPhase::Downloading => "downloading",
        pb::ModelPhase::Verified => "verified",
        pb::ModelPhase::Shadowing => "shadowing",
        pb::ModelPhase::Active => "active",
        pb::ModelPhase::Healthy => "healthy",
        pb::ModelPhase::Rejected => "rejected",
        pb::ModelPhase::RolledBack => "rolled_back",
        pb::ModelPhase::Failed => "failed",
    }
}

/// A device's state.
#[must_use]
pub fn state(m: &pb::State) -> Value {
    let forecasters: Vec<Value> = m
        .forecasters
        .iter()
        .map(|f| {
            json!({
                "forecaster": f.forecaster, "running": hex(&f.running), "model_version": f.model_version,
                "phase": phase(f.phase()), "reason": f.reason, "generation": f.generation, "attempt": f.attempt,
                "last_forecast": (f.last_forecast_ms > 0).then(|| timestamp(f.last_forecast_ms)), "forecasts": f.forecasts,
                "last_good": hex(&f.last_good), "before": hex(&f.before),
                "newest_version": f.newest_version,
            })
        })
        .collect();
    json!({
        "boot": m.boot, "n": m.n, "agent_version": m.agent_version, "buffered_records": m.buffered_records,
        "buffered_bytes": m.buffered_bytes, "key_list_version": m.key_list_version, "refused": m.refused,
        "forecasters": forecasters,
    })
}
