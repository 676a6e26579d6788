//! Readings as JSON from things that run no agent: owns that each counts once, never their form.

use std::collections::BTreeMap;

use fieldcast_store::readings::ReadingColumns;
use fieldcast_store::{Store, StoreError};
use fieldcast_wire::json::{FormError, JsonReading};
use fieldcast_wire::{DeviceId, Reading, RecordBody, pb};
use serde::Serialize;
use tokio::sync::{broadcast, mpsc};

use super::{check, out};
use crate::events::HubEvent;

/// Why a document as a whole is not stored.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Not the form, or over a cap.
    #[error(transparent)]
    Malformed(#[from] FormError),
    /// Nobody has added the device.
    #[error("device `{0}` is unknown; add it with `fieldcast-hub device add {0}`")]
    UnknownDevice(DeviceId),
    /// The database does not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl JsonError {
    /// Whether the same document may be stored later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }
}

/// What became of a document.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stored {
    /// Readings that were new.
    pub new: u64,
    /// Readings that were there already, with this value.
    pub known: u64,
    /// Readings refused by themselves: index in the document and reason.
    pub rejected: Vec<(usize, String)>,
    /// Indexes of the new ones in the document.
    #[serde(skip)]
    pub taken: Vec<usize>,
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
pub async fn store(
    store: &Store,
    device: &DeviceId,
    readings: &[JsonReading],
) -> Result<Stored, JsonError> {
    if store.device(device.as_str()).await?.is_none() {
        return Err(JsonError::UnknownDevice(device.clone()));
    }
    let mut stored = Stored::default();
    let mut names: Vec<String> = readings.iter().map(|r| r.sensor.clone()).collect();
    names.sort();
    names.dedup();
    names.retain(|name| fieldcast_wire::SensorName::new(name.clone()).is_ok());
    let ids = store.register_sensors(device.as_str(), &names).await?;
    let mut columns = ReadingColumns::default();
    let mut keys = Vec::with_capacity(readings.len());
    for (index, reading) in as_readings(readings).into_iter().enumerate() {
        let (time, value) = (reading.time, reading.value);
        let id = ids.get(&reading.sensor).copied();
        match (check::refusal(&RecordBody::Reading(reading)), id) {
            (None, Some(id)) => {
                columns.push(id, time, value, 0, 2);
                keys.push((index, (id, time), value));
            }
            (None, None) => stored
                .rejected
                .push((index, "the device's limit of sensors is reached".into())),
            (Some(reason), _) => stored.rejected.push((index, reason)),
        }
    }
    if !columns.is_empty() {
        let new = store
            .insert_json_readings(device.as_str(), &columns)
            .await?;
        stored.new = new.len() as u64;
        stored.known = (columns.len() - new.len()) as u64;
        let known: Vec<_> = keys.iter().map(|(_, key, _)| *key).collect();
        let known = match stored.known {
            0 => BTreeMap::new(),
            _ => store.json_values(&known).await?,
        };
        // Of several readings of one time the database took one: the one with its value.
        let mut new: BTreeMap<_, _> = new.into_iter().map(|(id, t, v)| ((id, t), v)).collect();
        for (index, key, value) in keys {
            if new
                .get(&key)
                .is_some_and(|v| v.to_bits() == value.to_bits())
            {
                new.remove(&key);
                stored.taken.push(index);
            } else if let Some(first) = known.get(&key).filter(|v| v.to_bits() != value.to_bits()) {
                stored.known -= 1;
                let why =
                    format!("the sensor has the value {first} at this time; the first one counts");
                stored.rejected.push((index, why));
            }
        }
    }
    Ok(stored)
}

/// Tells consumers and the rest of the hub of what was new, whichever way it came: what was refused, or known already with
/// perhaps another value, is not in the database under this document's name.
pub fn tell(
    device: &DeviceId,
    readings: &[JsonReading],
    stored: &Stored,
    out: &mpsc::Sender<out::Message>,
    events: &broadcast::Sender<HubEvent>,
) {
    let mut taken = Vec::with_capacity(stored.taken.len());
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    for reading in stored.taken.iter().filter_map(|at| readings.get(*at)) {
        let time = newest.entry(reading.sensor.clone()).or_insert(reading.time);
        *time = reading.time.max(*time);
        taken.push(reading.clone());
    }
    for message in out::readings(device, &as_readings(&taken)) {
        // Consumers that must not miss anything read the database: here the newest is dropped when they are slow.
        let _ = out.try_send(message);
    }
    let _ = events.send(HubEvent::Committed {
        device: device.clone(),
        newest,
        readings: stored.new,
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_stored_is_told() {
        let reading = |sensor: &str, time, value| JsonReading {
            sensor: sensor.into(),
            time,
            value,
        };
        let readings = [
            reading("t", 2_000, 2.0),
            reading("no such/name", 9_000, 3.0),
            reading("t", 1_000, 1.0),
            reading("t", i64::MAX, 4.0),
        ];
        let stored = Stored {
            new: 2,
            known: 0,
            rejected: vec![(1, "name".into()), (3, "time".into())],
            taken: vec![0, 2],
        };
        let (out, mut published) = mpsc::channel(8);
        let (events, mut heard) = broadcast::channel(8);
        let device = DeviceId::new("a").unwrap();
        tell(&device, &readings, &stored, &out, &events);
        let message = published.try_recv().unwrap();
        assert_eq!(message.leaf, out::Leaf::Sensor("t".into()));
        let body: serde_json::Value = serde_json::from_str(&message.body).unwrap();
        let values: Vec<_> = body["readings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["value"].as_f64().unwrap())
            .collect();
        assert_eq!(values, [2.0, 1.0]);
        assert!(published.try_recv().is_err());
        let HubEvent::Committed {
            newest, readings, ..
        } = heard.try_recv().unwrap()
        else {
            panic!("another event");
        };
        assert_eq!(newest, BTreeMap::from([("t".to_owned(), 2_000)]));
        assert_eq!(readings, 2);
    }
}
