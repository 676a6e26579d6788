//! The data a model sees: owns which devices' feature rows a snapshot holds, never trains.

use chrono::{DateTime, Utc};
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis};
use fieldcast_store::{Result, Store};

#[cfg(doc)]
use crate::features;
use crate::features::Kept;

/// One device's rows.
#[derive(Debug, Clone)]
pub struct DeviceRows {
    /// Device.
    pub device: String,
    /// Rows by time.
    pub rows: Vec<FeatureRow>,
}

/// Names of the devices that a forecaster selects.
///
/// # Errors
/// The database.
pub async fn devices(store: &Store, spec: &ForecasterSpec) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut after = String::new();
    loop {
        let page = store.devices(&after, 1_000).await?;
        let Some(last) = page.last() else {
            return Ok(names);
        };
        after.clone_from(&last.id);
        let chosen = page.into_iter().filter(|d| {
            spec.selector
                .labels
                .iter()
                .all(|(k, v)| d.labels.get(k) == Some(v))
        });
        names.extend(chosen.map(|d| d.id));
    }
}

/// Newest usable data time of some sensors on each selected device that has one.
///
/// # Errors
/// The database.
pub async fn newest_by_device(
    store: &Store,
    spec: &ForecasterSpec,
    sensors: &[String],
) -> Result<Vec<(String, Millis)>> {
    let devices = devices(store, spec).await?;
    store.newest_by_device(&devices, sensors).await
}

/// Newest usable data time of the target on any selected device.
///
/// # Errors
/// The database.
pub async fn newest(store: &Store, spec: &ForecasterSpec) -> Result<Option<Millis>> {
    let sensors = [spec.sensor_of(&spec.target).to_owned()];
    let all = newest_by_device(store, spec, &sensors).await?;
    Ok(all.into_iter().map(|(_, newest)| newest).max())
}

/// The rows of every selected device that has some, of the readings received until a mark of [`features::advance`].
///
/// # Errors
/// The database.
pub async fn take(
    store: &Store,
    spec: &ForecasterSpec,
    from: Millis,
    mark: DateTime<Utc>,
) -> Result<Vec<DeviceRows>> {
    let kept = Kept::open(store, spec).await?;
    let mut all = Vec::new();
    let span = (from, fieldcast_wire::caps::MAX_TIME_MS);
    for device in devices(store, spec).await? {
        let rows = kept.rows(&device, span, mark).await?;
        if !rows.is_empty() {
            all.push(DeviceRows { device, rows });
        }
    }
    Ok(all)
}

/// SHA-256 over devices, times and values, bit for bit.
#[must_use]
pub fn digest(data: &[DeviceRows]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for series in data {
        context.update(series.device.as_bytes());
        context.update(&[0]);
        for row in &series.rows {
            context.update(&row.time.to_le_bytes());
            for value in &row.values {
                // One bit pattern for every NaN.
                let value = if value.is_nan() { f64::NAN } else { *value };
                context.update(&value.to_bits().to_le_bytes());
            }
        }
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
