//! Payloads as JSON for people: owns names and shape of every field, never the choice of the kind.

use anyhow::{Context as _, Result};
use fieldcast_bundle::container::Container;
use fieldcast_bundle::{Caps, UnverifiedBundle};
use fieldcast_store::time::timestamp;
use fieldcast_wire::{Batch, Record, RecordBody, Sha256, message, pb};
use prost::Message as _;
use serde_json::{Value, json};

use crate::signing::hex;

pub(super) fn batch(b: &Batch, bytes: &[u8]) -> Value {
    json!({
        "epoch": b.epoch.to_string(), "number": b.number, "first_seq": b.first_seq, "last_seq": b.last_seq,
        "sha256": Sha256::of(bytes).to_string(), "clock": clock(&b.clock),
        "records": b.records.iter().map(record).collect::<Vec<_>>(),
    })
}

fn record(r: &Record) -> Value {
    let (kind, mut shown) = match &r.body {
        RecordBody::Reading(m) => (
            "reading",
            json!({
                "sensor": m.sensor, "time_ms": m.time, "value": m.value, "quality": m.quality,
                "time_source": m.time_source.as_str_name(),
            }),
        ),
        RecordBody::Forecast(m) => (
            "forecast",
            json!({
                "forecaster": m.forecaster, "origin_ms": m.origin_ms, "period_ms": m.period_ms, "mean": m.mean,
                "quantile_levels": m.quantile_levels, "quantiles": m.quantiles, "made_by": m.made_by,
                "bundle": hex(&m.bundle), "model_version": m.model_version, "shadow": m.shadow,
            }),
        ),
        RecordBody::Residual(m) => (
            "residual",
            json!({
                "forecaster": m.forecaster, "bundle": hex(&m.bundle), "model_version": m.model_version,
                "made_by": m.made_by, "shadow": m.shadow, "from_ms": m.from_ms, "to_ms": m.to_ms, "count": m.count,
                "mean_error": m.mean_error, "mean_abs_error": m.mean_abs_error,
                "mean_squared_error": m.mean_squared_error, "naive_mean_abs_error": m.naive_mean_abs_error,
                "covered": m.covered,
            }),
        ),
        RecordBody::Gap(m) => (
            "gap",
            json!({
                "what": m.kind().as_str_name(), "epoch": hex(&m.epoch), "first_seq": m.first_seq,
                "last_seq": m.last_seq, "from_ms": m.from_ms, "to_ms": m.to_ms, "reason": m.reason,
            }),
        ),
        RecordBody::Drift(m) => (
            "drift",
            json!({
                "what": m.kind().as_str_name(), "forecaster": m.forecaster, "sensor": m.sensor,
                "detector": m.detector, "statistic": m.statistic, "threshold": m.threshold,
                "severity": m.severity, "time_ms": m.time_ms, "onset_ms": m.onset_ms, "raised": m.raised,
                "model_version": m.model_version, "data_count": m.data_count,
            }),
        ),
        RecordBody::Alarm(m) => (
            "alarm",
            json!({
                "code": m.code, "sensor": m.sensor, "time_ms": m.time_ms, "message": m.message,
                "raised": m.raised,
            }),
        ),
        RecordBody::Clock(m) => (
            "clock",
            json!({
                "boot_id": m.boot_id, "offset_ms": m.offset_ms, "error_ms": m.error_ms,
                "synchronised": m.synchronised,
            }),
        ),
        RecordBody::Outcome(m) => (
            "outcome",
            json!({"subject": m.subject, "ok": m.ok, "message": m.message, "time_ms": m.time_ms}),
        ),
        RecordBody::Sketch(m) => (
            "sketch",
            json!({
                "sensor": m.sensor, "from_ms": m.from_ms, "to_ms": m.to_ms, "count": m.count,
                "left_out": m.left_out, "mean": m.mean, "squares": m.squares, "kll": hex(&m.kll),
            }),
        ),
        RecordBody::Paired(m) => (
            "paired_losses",
            json!({
                "forecaster": m.forecaster, "running": hex(&m.running), "watching": hex(&m.watching),
                "running_version": m.running_version, "watching_version": m.watching_version,
                "from_ms": m.from_ms, "to_ms": m.to_ms, "origins": m.origins, "steps": m.steps,
                "running_abs": m.running_abs, "watching_abs": m.watching_abs,
                "running_quantile": m.running_quantile, "watching_quantile": m.watching_quantile,
            }),
        ),
    };
    shown["seq"] = r.seq.into();
    shown["kind"] = kind.into();
    shown
}

fn clock(m: &pb::ClockStamp) -> Value {
    json!({
        "boot_id": m.boot_id, "monotonic_ms": m.monotonic_ms, "wall": timestamp(m.wall_ms),
        "synchronised": m.synchronised,
    })
}

pub(super) fn ack(m: &pb::Ack) -> Value {
    let ranges: Vec<_> = m.ranges.iter().map(|r| [r.first, r.last]).collect();
    let rejected = m
        .rejected
        .iter()
        .map(|r| json!({"batch": r.batch, "seq": r.seq, "reason": r.reason}));
    let proofs = m
        .proofs
        .iter()
        .map(|p| json!({"batch": p.batch, "digest": hex(&p.digest)}));
    json!({
        "schema": m.schema, "epoch": hex(&m.epoch), "through": m.through, "ranges": ranges,
        "rejected": rejected.collect::<Vec<_>>(), "proofs": proofs.collect::<Vec<_>>(),
        "hub_instance": hex(&m.hub_instance), "hub_time": timestamp(m.hub_time_ms), "new_epoch": m.new_epoch,
        "reason": m.reason, "echo_boot_id": m.echo_boot_id, "echo_monotonic_ms": m.echo_monotonic_ms,
    })
}

pub(super) fn sync(m: &pb::Sync) -> Value {
    json!({
        "schema": m.schema, "epoch": hex(&m.epoch), "session": m.session, "oldest_batch": m.oldest_batch,
        "next_batch": m.next_batch, "next_seq": m.next_seq, "acked_through": m.acked_through,
        "last_acked": m.last_acked, "hub_instance": hex(&m.hub_instance), "buffered_bytes": m.buffered_bytes,
        "clock": m.clock.as_ref().map(clock),
    })
}

pub(super) fn presence(m: &pb::Presence) -> Value {
    json!({
        "session": m.session, "online": m.online, "agent_version": m.agent_version, "time": timestamp(m.time_ms),
    })
}

pub(super) fn blocks(m: &pb::BlobRequest) -> Value {
    json!({"sha256": hex(&m.sha256), "first_missing": m.offset_blocks, "missing": m.missing})
}

/// A block in its frame, or a raw one.
pub(super) fn block(bytes: &[u8]) -> Value {
    let framed = message::receive::<pb::Block>(bytes).ok();
    match framed.filter(|b| Sha256::from_slice(&b.sha256).is_some() && !b.content.is_empty()) {
        Some(b) => {
            json!({"sha256": hex(&b.sha256), "number": b.number, "bytes": b.content.len()})
        }
        None => json!({"bytes": bytes.len(), "sha256": Sha256::of(bytes).to_string()}),
    }
}

/// What a bundle says of itself; nothing is verified.
pub(super) fn bundle(bytes: &[u8]) -> Result<Value> {
    // The caps first.
    UnverifiedBundle::parse(bytes, &Caps::default())?;
    let container = Container::decode(bytes)?;
    let manifest: Value =
        serde_json::from_slice(&container.manifest).context("read the bundle's manifest")?;
    let parts = container.parts.iter().map(|p| {
        json!({"name": p.name, "bytes": p.bytes.len(), "sha256": Sha256::of(&p.bytes).to_string()})
    });
    Ok(json!({
        "verified": false, "sha256": Sha256::of(bytes).to_string(), "bytes": bytes.len(),
        "key": container.key_id, "manifest": manifest, "parts": parts.collect::<Vec<_>>(),
    }))
}

/// What the payloads say; nothing is verified.
pub(super) fn desired(m: &pb::Desired) -> Result<Value> {
    let orders = m.orders.iter().map(order).collect::<Result<Vec<_>>>()?;
    let keys = m.key_list.as_ref().map(key_list).transpose()?;
    Ok(json!({"verified": false, "key_list": keys, "orders": orders}))
}

fn key_list(signed: &pb::Signed) -> Result<Value> {
    let list: pb::KeyList = message::decode("key list", &signed.payload)?;
    let keys = list
        .keys
        .iter()
        .map(|k| json!({"key": k.key_id, "public_key": hex(&k.public_key)}));
    Ok(
        json!({"version": list.version, "keys": keys.collect::<Vec<_>>(), "signed_by": signed.key_id}),
    )
}

fn order(signed: &pb::Signed) -> Result<Value> {
    let o: pb::Order = message::decode("order", &signed.payload)?;
    Ok(json!({
        "site": o.site, "device": o.device, "forecaster": o.forecaster, "bundle": hex(&o.bundle),
        "bundle_size": o.bundle_size, "model_version": o.model_version, "stage": o.stage().as_str_name(),
        "generation": o.generation, "attempt": o.attempt, "expires": timestamp(o.expires_ms),
        "issued": timestamp(o.issued_ms), "key": signed.key_id,
    }))
}
