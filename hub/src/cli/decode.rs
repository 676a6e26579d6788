//! `fieldcast-hub decode`: prints any binary payload as JSON; owns the choice of the kind, never the formats.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use fieldcast_store::time::timestamp;
use fieldcast_wire::{RecordBody, Sha256, batch, message, pb};
use serde_json::{Value, json};

use super::Context;
use crate::leader::state_json;
use crate::signing::hex;

/// Options of `decode`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the payload is.
    #[arg(value_enum)]
    kind: Kind,
    /// File with the payload; `-` or nothing: standard input.
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// `up/t/live`, `up/t/back`.
    Batch,
    /// `up/sync`.
    Sync,
    /// `up/state`.
    State,
    /// `up/presence`.
    Presence,
    /// `dn/ack`.
    Ack,
    /// `dn/desired`.
    Desired,
}

/// Decodes and prints.
///
/// # Errors
/// The file cannot be read, or is not such a payload.
pub async fn run(_ctx: &Context, args: Args) -> Result<()> {
    let bytes = read(args.file)?;
    let value = match args.kind {
        Kind::Batch => batch_json(&bytes)?,
        Kind::Sync => sync(&message::decode("sync", &bytes)?),
        Kind::State => state_json(&message::decode("state", &bytes)?),
        Kind::Presence => presence(&message::decode("presence", &bytes)?),
        Kind::Ack => ack(&message::decode("ack", &bytes)?),
        Kind::Desired => desired(&message::decode("desired orders", &bytes)?)?,
    };
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{value:#}")?;
    Ok(())
}

fn read(file: Option<PathBuf>) -> Result<Vec<u8>> {
    match file.filter(|f| f.as_os_str() != "-") {
        Some(file) => {
            std::fs::read(&file).with_context(|| format!("read payload {}", file.display()))
        }
        None => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .context("read the payload from standard input")?;
            Ok(bytes)
        }
    }
}

fn batch_json(bytes: &[u8]) -> Result<Value> {
    let b = batch::decode(bytes)?;
    let records: Vec<Value> = b
        .records
        .iter()
        .map(|r| match &r.body {
            RecordBody::Reading(m) => json!({"seq": r.seq, "kind": "reading", "sensor": m.sensor, "time_ms": m.time,
                "value": m.value, "quality": m.quality, "time_source": m.time_source.as_str_name()}),
            RecordBody::Forecast(m) => json!({"seq": r.seq, "kind": "forecast", "forecaster": m.forecaster,
                "origin_ms": m.origin_ms, "period_ms": m.period_ms, "mean": m.mean, "quantile_levels": m.quantile_levels,
                "quantiles": m.quantiles, "made_by": m.made_by, "model_version": m.model_version, "shadow": m.shadow}),
            RecordBody::Gap(m) => json!({"seq": r.seq, "kind": "gap", "first_seq": m.first_seq, "last_seq": m.last_seq,
                "from_ms": m.from_ms, "to_ms": m.to_ms, "reason": m.reason}),
            RecordBody::Residual(m) => json!({"seq": r.seq, "kind": "residual", "message": debug(m)}),
            RecordBody::Drift(m) => json!({"seq": r.seq, "kind": "drift", "message": debug(m)}),
            RecordBody::Alarm(m) => json!({"seq": r.seq, "kind": "alarm", "message": debug(m)}),
            RecordBody::Clock(m) => json!({"seq": r.seq, "kind": "clock", "message": debug(m)}),
            RecordBody::Sketch(m) => json!({"seq": r.seq, "kind": "sketch", "message": debug(m)}),
            RecordBody::Paired(m) => json!({"seq": r.seq, "kind": "paired_losses", "forecaster": m.forecaster,
                "running": hex(&m.running), "watching": hex(&m.watching), "running_version": m.running_version,
                "watching_version": m.watching_version, "from_ms": m.from_ms, "to_ms": m.to_ms, "origins": m.origins,
                "steps": m.steps, "running_abs": m.running_abs, "watching_abs": m.watching_abs,
                "running_quantile": m.running_quantile, "watching_quantile": m.watching_quantile}),
            RecordBody::Outcome(m) => json!({"seq": r.seq, "kind": "outcome", "message": debug(m)}),
        })
        .collect();
    Ok(json!({
        "epoch": b.epoch.to_string(), "number": b.number, "first_seq": b.first_seq, "last_seq": b.last_seq,
        "sha256": Sha256::of(bytes).to_string(), "clock": debug(&b.clock), "records": records,
    }))
}

fn ack(m: &pb::Ack) -> Value {
    let ranges: Vec<_> = m.ranges.iter().map(|r| [r.first, r.last]).collect();
    let rejected: Vec<Value> = m
        .rejected
        .iter()
        .map(|r| json!({"batch": r.batch, "seq": r.seq, "reason": r.reason}))
        .collect();
    json!({
        "epoch": hex(&m.epoch), "through": m.through, "ranges": ranges, "rejected": rejected,
        "hub_instance": hex(&m.hub_instance), "hub_time": timestamp(m.hub_time_ms), "new_epoch": m.new_epoch,
        "reason": m.reason, "echo_boot_id": m.echo_boot_id, "echo_monotonic_ms": m.echo_monotonic_ms,
    })
}

fn sync(m: &pb::Sync) -> Value {
    json!({
        "epoch": hex(&m.epoch), "session": m.session, "oldest_batch": m.oldest_batch, "next_batch": m.next_batch,
        "next_seq": m.next_seq, "acked_through": m.acked_through, "hub_instance": hex(&m.hub_instance),
        "buffered_bytes": m.buffered_bytes, "clock": debug(&m.clock),
    })
}

fn presence(m: &pb::Presence) -> Value {
    json!({
        "session": m.session, "online": m.online, "agent_version": m.agent_version, "time": timestamp(m.time_ms),
    })
}

fn desired(m: &pb::Desired) -> Result<Value> {
    let orders = m
        .orders
        .iter()
        .map(|signed| {
            let o: pb::Order = message::decode("order", &signed.payload)?;
            Ok(json!({
                "device": o.device, "forecaster": o.forecaster, "bundle": hex(&o.bundle),
                "model_version": o.model_version, "stage": o.stage().as_str_name(), "generation": o.generation,
                "attempt": o.attempt, "expires": timestamp(o.expires_ms), "key": signed.key_id,
            }))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(json!({"orders": orders}))
}

/// Small messages as the text of their fields: for people, so nothing depends on its shape.
fn debug(message: &impl std::fmt::Debug) -> Value {
    Value::String(format!("{message:?}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_shown_with_what_it_orders() {
        let order = pb::Order {
            device: "a".into(),
            forecaster: "demand".into(),
            bundle: vec![0xab; 32],
            model_version: 7,
            generation: 3,
            ..Default::default()
        };
        let signed = pb::Signed {
            payload: message::encode(&order),
            key_id: "k".into(),
            ..Default::default()
        };
        let shown = desired(&pb::Desired {
            orders: vec![signed],
            ..Default::default()
        })
        .unwrap();
        let one = &shown["orders"][0];
        assert_eq!(one["device"], "a");
        assert_eq!(one["bundle"], "ab".repeat(32));
        assert_eq!(
            (&one["model_version"], &one["generation"]),
            (&json!(7), &json!(3))
        );
        assert_eq!(one["key"], "k");
        let damaged = pb::Signed {
            payload: vec![0xff],
            ..Default::default()
        };
        assert!(
            desired(&pb::Desired {
                orders: vec![damaged],
                ..Default::default()
            })
            .is_err()
        );
    }
}
