//! The data a model sees: owns reading a forecaster's rows from stored readings with the device's own pipeline, never trains.

use chrono::{DateTime, Utc};
use fieldcast_features::resample::resample_all;
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis, Quality, Sample};
use fieldcast_store::{Result, Store};

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

/// A device's rows with grid times in `(from, to]`, made from its readings as the device makes them. Readings whose time
/// nobody vouches for stay out, and bad ones count as missing.
///
/// # Errors
/// The database.
pub async fn rows(
    store: &Store,
    spec: &ForecasterSpec,
    device: &str,
    from: Millis,
    to: Millis,
) -> Result<Vec<FeatureRow>> {
    rows_known(store, spec, device, (from, to), None).await
}

/// As [`rows`], from readings received until `known`.
async fn rows_known(
    store: &Store,
    spec: &ForecasterSpec,
    device: &str,
    (from, to): (Millis, Millis),
    known: Option<DateTime<Utc>>,
) -> Result<Vec<FeatureRow>> {
    let channels = spec.channels();
    let sensors: Vec<String> = channels
        .iter()
        .map(|c| spec.sensor_of(c).to_owned())
        .collect();
    // The first row takes in readings from before `from` where that lies between two grid times.
    let first = from.div_euclid(spec.period_ms().max(1)) * spec.period_ms();
    let readings = store
        .readings_known(device, &sensors, (first, to), known)
        .await?;
    let samples: Vec<Sample> = readings
        .iter()
        .filter(|r| r.time_quality > 0)
        .flat_map(|r| {
            let quality = Quality::from_u8(r.quality).unwrap_or(Quality::Bad);
            // One sensor may stand behind several channels.
            let of_sensor = sensors.iter().enumerate().filter(|(_, s)| **s == r.sensor);
            of_sensor.map(move |(channel, _)| Sample {
                channel,
                time: r.time,
                value: quality.admit(r.value),
            })
        })
        .collect();
    let rows = tokio::task::block_in_place(|| resample_all(spec, &samples));
    Ok(rows
        .into_iter()
        .filter(|r| r.time > from && r.time <= to)
        .collect())
}

/// The rows of every selected device that has some, from readings received until `known`.
///
/// # Errors
/// The database.
pub async fn take(
    store: &Store,
    spec: &ForecasterSpec,
    from: Millis,
    known: DateTime<Utc>,
) -> Result<Vec<DeviceRows>> {
    let mut all = Vec::new();
    let span = (from, fieldcast_wire::caps::MAX_TIME_MS);
    for device in devices(store, spec).await? {
        let rows = rows_known(store, spec, &device, span, Some(known)).await?;
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
