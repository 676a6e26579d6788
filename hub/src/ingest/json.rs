//! Readings as JSON from things that run no agent: owns their form and idempotency, never batches.

use anyhow::{Result, bail};
use fieldcast_features::Millis;
use fieldcast_store::Store;
use fieldcast_store::readings::ReadingColumns;
use fieldcast_wire::caps::{MAX_PAYLOAD, MAX_RECORDS};
use fieldcast_wire::{DeviceId, Reading, RecordBody, pb};
use serde::{Deserialize, Serialize};

use super::check;

/// One reading.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonReading {
    /// Sensor name.
    pub sensor: String,
    /// Data time.
    pub time: Millis,
    /// Value.
    pub value: f64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    One(Raw),
    Many(Vec<Raw>),
    Named { readings: Vec<Raw> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    sensor: String,
    time: Time,
    value: f64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Text(String),
    Millis(i64),
}

/// What became of a document.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stored {
    /// Readings that were new.
    pub new: u64,
    /// Readings that were there already.
    pub known: u64,
    /// Readings refused by themselves: index in the document and reason.
    pub rejected: Vec<(usize, String)>,
}

/// Reads `{"sensor", "time", "value"}`, an array of such, or `{"readings": [...]}`. Times are RFC 3339 text or
/// milliseconds since 1970.
///
/// # Errors
/// What is wrong and what is expected.
pub fn parse(bytes: &[u8]) -> Result<Vec<JsonReading>> {
    const FORM: &str = r#"expected {"sensor": "t", "time": "2026-01-01T00:00:00Z", "value": 1.5}, an array of such, or {"readings": [...]}"#;
    if bytes.len() > MAX_PAYLOAD {
        bail!(
            "{} bytes are over the cap of {MAX_PAYLOAD}; send less at once",
            bytes.len()
        );
    }
    let document: Document = match serde_json::from_slice(bytes) {
        Ok(document) => document,
        Err(error) => bail!("readings cannot be read ({error}); {FORM}"),
    };
    let raw = match document {
        Document::One(raw) => vec![raw],
        Document::Many(raw) | Document::Named { readings: raw } => raw,
    };
    if raw.len() as u64 > MAX_RECORDS {
        bail!(
            "{} readings are over the cap of {MAX_RECORDS}; send less at once",
            raw.len()
        );
    }
    raw.into_iter()
        .map(|r| {
            let time = match r.time {
                Time::Millis(ms) => ms,
                Time::Text(text) => match chrono::DateTime::parse_from_rfc3339(&text) {
                    Ok(time) => time.timestamp_millis(),
                    Err(_) => bail!("time `{text}` is not RFC 3339; {FORM}"),
                },
            };
            Ok(JsonReading {
                sensor: r.sensor,
                time,
                value: r.value,
            })
        })
        .collect()
}

/// The same as wire readings.
#[must_use]
pub fn as_readings(readings: &[JsonReading]) -> Vec<Reading> {
    readings
        .iter()
        .map(|r| Reading {
            sensor: r.sensor.clone(),
            time: r.time,
            value: r.value,
            quality: 0,
            time_source: pb::TimeSource::External,
        })
        .collect()
}

/// Stores readings of a known device, each (sensor, time) once.
///
/// # Errors
/// An unknown device, or the database.
pub async fn store(store: &Store, device: &DeviceId, readings: &[JsonReading]) -> Result<Stored> {
    if store.device(device.as_str()).await?.is_none() {
        bail!("device `{device}` is unknown; add it with `fieldcast-hub device add {device}`");
    }
    let mut stored = Stored::default();
    let mut names: Vec<String> = readings.iter().map(|r| r.sensor.clone()).collect();
    names.sort();
    names.dedup();
    names.retain(|name| fieldcast_wire::SensorName::new(name.clone()).is_ok());
    let ids = store.register_sensors(device.as_str(), &names).await?;
    let mut columns = ReadingColumns::default();
    for (index, reading) in as_readings(readings).into_iter().enumerate() {
        let (time, value) = (reading.time, reading.value);
        let id = ids.get(&reading.sensor).copied();
        match (check::refusal(&RecordBody::Reading(reading)), id) {
            (None, Some(id)) => columns.push(id, time, value, 0, 2),
            (None, None) => stored
                .rejected
                .push((index, "the device's limit of sensors is reached".into())),
            (Some(reason), _) => stored.rejected.push((index, reason)),
        }
    }
    if !columns.is_empty() {
        stored.new = store
            .insert_json_readings(device.as_str(), &columns)
            .await?;
        stored.known = columns.len() as u64 - stored.new;
    }
    Ok(stored)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_and_clear_refusals() {
        let one = br#"{"sensor":"t","time":"1970-01-01T00:00:01Z","value":2}"#;
        let expected = JsonReading {
            sensor: "t".into(),
            time: 1000,
            value: 2.0,
        };
        assert_eq!(parse(one).unwrap(), vec![expected.clone()]);
        assert_eq!(
            parse(br#"[{"sensor":"t","time":1000,"value":2}]"#).unwrap(),
            vec![expected.clone()]
        );
        assert_eq!(
            parse(br#"{"readings":[{"sensor":"t","time":1000,"value":2}]}"#).unwrap(),
            vec![expected]
        );
        for wrong in [
            &b"{"[..],
            br#"{"sensor":"t"}"#,
            br#"[{"sensor":"t","time":"yesterday","value":2}]"#,
        ] {
            assert!(parse(wrong).unwrap_err().to_string().contains("expected"));
        }
    }
}
