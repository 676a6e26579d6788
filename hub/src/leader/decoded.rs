//! Binary messages as JSON for people and for the tables: owns names and shapes, never a decision.

use fieldcast_store::time::timestamp;
use fieldcast_wire::{RecordBody, batch, message, pb};
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
                "last_forecast": timestamp(f.last_forecast_ms), "forecasts": f.forecasts,
                "last_good": hex(&f.last_good),
            })
        })
        .collect();
    json!({
        "boot": m.boot, "n": m.n, "agent_version": m.agent_version, "buffered_records": m.buffered_records,
        "buffered_bytes": m.buffered_bytes, "key_list_version": m.key_list_version, "forecasters": forecasters,
    })
}

/// A binary payload by the name of its kind.
///
/// # Errors
/// An unknown kind, or bytes that are not of it.
pub fn payload(kind: &str, bytes: &[u8]) -> anyhow::Result<Value> {
    Ok(match kind {
        "batch" => {
            let b = batch::decode(bytes)?;
            let records: Vec<Value> = b
                .records
                .iter()
                .map(|r| match &r.body {
                    RecordBody::Reading(m) => json!({
                        "seq": r.seq, "reading": m.sensor, "time": timestamp(m.time), "value": m.value,
                        "quality": m.quality,
                    }),
                    other => json!({ "seq": r.seq, "record": format!("{other:?}") }),
                })
                .collect();
            json!({
                "epoch": b.epoch.to_string(), "number": b.number, "first_seq": b.first_seq, "last_seq": b.last_seq,
                "clock": format!("{:?}", b.clock), "records": records,
            })
        }
        "state" => state(&message::decode::<pb::State>("state", bytes)?),
        "ack" => {
            let m: pb::Ack = message::decode("ack", bytes)?;
            let ranges: Vec<_> = m.ranges.iter().map(|r| [r.first, r.last]).collect();
            let rejected: Vec<Value> = m
                .rejected
                .iter()
                .map(|r| json!({ "batch": r.batch, "seq": r.seq, "reason": r.reason }))
                .collect();
            json!({
                "epoch": hex(&m.epoch), "through": m.through, "ranges": ranges, "rejected": rejected,
                "hub_instance": hex(&m.hub_instance), "hub_time": timestamp(m.hub_time_ms),
                "new_epoch": m.new_epoch, "reason": m.reason,
            })
        }
        "sync" => {
            let m: pb::Sync = message::decode("sync", bytes)?;
            json!({
                "epoch": hex(&m.epoch), "session": m.session, "oldest_batch": m.oldest_batch,
                "next_batch": m.next_batch, "next_seq": m.next_seq, "acked_through": m.acked_through,
                "hub_instance": hex(&m.hub_instance), "buffered_bytes": m.buffered_bytes,
            })
        }
        "presence" => {
            let m: pb::Presence = message::decode("presence", bytes)?;
            json!({
                "session": m.session, "online": m.online, "agent_version": m.agent_version,
                "time": timestamp(m.time_ms),
            })
        }
        "desired" => {
            let m: pb::Desired = message::decode("desired", bytes)?;
            let orders: Result<Vec<Value>, _> = m
                .orders
                .iter()
                .map(|s| {
                    message::decode::<pb::Order>("order", &s.payload).map(|o| {
                        json!({
                            "device": o.device, "forecaster": o.forecaster, "bundle": hex(&o.bundle),
                            "model_version": o.model_version, "stage": format!("{:?}", o.stage()),
                            "generation": o.generation, "attempt": o.attempt,
                            "expires": timestamp(o.expires_ms), "key": s.key_id,
                        })
                    })
                })
                .collect();
            json!({ "orders": orders? })
        }
        other => anyhow::bail!(
            "`{other}` is no kind of payload: use batch, state, ack, sync, presence or desired"
        ),
    })
}
