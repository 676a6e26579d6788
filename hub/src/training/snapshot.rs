//! The data a model sees: owns which devices' feature rows a snapshot holds, never trains.

use chrono::{DateTime, Utc};
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis};
use fieldcast_store::{Result, Store};

use crate::features::{self, Kept};

/// One device's rows.
#[derive(Debug, Clone)]
pub struct DeviceRows {
    /// Device.
    pub device: String,
    /// Rows by time.
    pub rows: Vec<FeatureRow>,
    /// Of how many of them something is left out that a sensor's fault had spoilt.
    pub spoilt: usize,
}

/// A reading that lies further behind the mark than this has a time that cannot be true: one of them would move the end of all that is
/// learnt from, and what is judged by with it.
const AHEAD_MS: Millis = 86_400_000;

/// The rows of every selected device that has some, of the readings received until a mark of [`features::advance`], but for what
/// sensors' faults had spoilt before they were found, and what is dated a day or more behind the mark.
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
    let span = (from, mark.timestamp_millis().saturating_add(AHEAD_MS));
    for device in features::devices(store, spec).await? {
        let (rows, spoilt) = kept.rows_to_learn(&device, span, mark).await?;
        if !rows.is_empty() {
            all.push(DeviceRows {
                device,
                rows,
                spoilt,
            });
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
            for bits in row.bits() {
                context.update(&bits.to_le_bytes());
            }
        }
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
