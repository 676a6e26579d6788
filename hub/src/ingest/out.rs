//! Decoded JSON for other consumers: owns its shape, never what is stored.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use fieldcast_store::time::timestamp;
use fieldcast_wire::{DeviceId, Reading, pb};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::downlink::Downlink;

/// Most readings in one message.
const CHUNK: usize = 500;
/// Messages that may wait.
pub const QUEUE: usize = 4_096;

/// A message below `out/<device>/`.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// About whom.
    pub device: DeviceId,
    /// Topic below the device.
    pub leaf: Leaf,
    /// What, as JSON.
    pub body: String,
}

/// Topic below a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaf {
    /// A sensor's readings.
    Sensor(String),
    /// A forecaster's forecasts.
    Forecast(String),
    /// Alarms and drift.
    Alarm,
}

fn time(millis: i64) -> String {
    timestamp(millis).to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

/// A message about readings; written as it is, since there are many.
#[derive(Serialize)]
struct Readings<'a> {
    device: &'a DeviceId,
    sensor: &'a str,
    readings: &'a [One],
}

#[derive(Serialize)]
struct One {
    time: DateTime<Utc>,
    value: f64,
    quality: u8,
}

/// Readings, by sensor.
pub fn readings<'a>(
    device: &DeviceId,
    readings: impl IntoIterator<Item = &'a Reading>,
) -> Vec<Message> {
    let mut sensors: BTreeMap<&str, Vec<One>> = BTreeMap::new();
    for r in readings {
        let one = One {
            time: timestamp(r.time),
            value: r.value,
            quality: r.quality,
        };
        sensors.entry(&r.sensor).or_default().push(one);
    }
    let mut out = Vec::new();
    for (sensor, values) in sensors {
        out.extend(values.chunks(CHUNK).map(|chunk| Message {
            device: device.clone(),
            leaf: Leaf::Sensor(sensor.to_owned()),
            body: written(&Readings {
                device,
                sensor,
                readings: chunk,
            }),
        }));
    }
    out
}

/// Only a map whose keys are no text cannot be written, and there is none here.
fn written(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

/// A forecast.
#[must_use]
pub fn forecast(device: &DeviceId, m: &pb::Forecast) -> Message {
    let levels = m.quantile_levels.len().max(1);
    let steps: Vec<Value> = m
        .mean
        .iter()
        .enumerate()
        .map(|(h, mean)| {
            let step = i64::try_from(h + 1).unwrap_or(i64::MAX);
            let at = m.origin_ms.saturating_add(step.saturating_mul(m.period_ms));
            let quantiles = m.quantiles.chunks(levels).nth(h).unwrap_or_default();
            json!({ "time": time(at), "mean": mean, "quantiles": quantiles })
        })
        .collect();
    Message {
        device: device.clone(),
        leaf: Leaf::Forecast(m.forecaster.clone()),
        body: json!({
            "device": device, "forecaster": m.forecaster, "origin": time(m.origin_ms), "made_by": m.made_by,
            "model_version": m.model_version, "shadow": m.shadow, "levels": m.quantile_levels, "steps": steps,
        })
        .to_string(),
    }
}

/// A device's alarm.
#[must_use]
pub fn alarm(device: &DeviceId, m: &pb::Alarm) -> Message {
    let body = json!({
        "device": device, "source": "device", "code": m.code, "sensor": m.sensor, "time": time(m.time_ms),
        "message": m.message, "raised": m.raised,
    });
    Message {
        device: device.clone(),
        leaf: Leaf::Alarm,
        body: body.to_string(),
    }
}

/// A drift condition raised or ended.
#[must_use]
pub fn drift(device: &DeviceId, m: &pb::DriftSignal) -> Message {
    let body = json!({
        "device": device, "source": "device", "code": "drift",
        "kind": fieldcast_store::records::drift_kind(m.kind()), "forecaster": m.forecaster, "sensor": m.sensor,
        "detector": m.detector, "severity": m.severity, "time": time(m.time_ms), "onset": time(m.onset_ms),
        "raised": m.raised,
    });
    Message {
        device: device.clone(),
        leaf: Leaf::Alarm,
        body: body.to_string(),
    }
}

/// An alarm of the hub's own.
#[must_use]
pub fn hub_alarm(device: &DeviceId, code: &str, message: &str) -> Message {
    let body = json!({
        "device": device, "source": "hub", "code": code, "time": time(super::now_ms()),
        "message": message, "raised": true,
    });
    Message {
        device: device.clone(),
        leaf: Leaf::Alarm,
        body: body.to_string(),
    }
}

/// Publishes until cancelled or the channel ends.
pub async fn run(mut queue: mpsc::Receiver<Message>, downlink: Downlink, end: CancellationToken) {
    loop {
        let message = tokio::select! {
            message = queue.recv() => message,
            () = end.cancelled() => None,
        };
        let Some(Message { device, leaf, body }) = message else {
            return;
        };
        let topics = downlink.topics();
        let topic = match leaf {
            Leaf::Sensor(sensor) => topics.out_reading(&device, &sensor),
            Leaf::Forecast(forecaster) => topics.out_forecast(&device, &forecaster),
            Leaf::Alarm => topics.out_alarm(&device),
        };
        if let Err(error) = downlink.publish(&topic, body.into_bytes(), false).await {
            tracing::debug!(error = %format!("{error:#}"), "not published to consumers");
        }
    }
}
