//! Feature rows at the hub: owns when they are computed from stored readings, never how (that is the shared crate).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use fieldcast_features::grid::slot_of;
use fieldcast_features::resample::resample_all;
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis, Quality, Sample};
use fieldcast_store::{Store, StoreError};
use fieldcast_wire::DeviceId;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::events::HubEvent;

/// Whether a forecaster is meant for a device with these labels.
#[must_use]
pub fn selects(spec: &ForecasterSpec, labels: &BTreeMap<String, String>) -> bool {
    spec.selector
        .labels
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// Rows of a device for a forecaster with `from <= time <= to`, computed from its good and suspect readings.
/// Readings whose time is not known to be right stay out.
///
/// # Errors
/// The database.
pub async fn rows_for(
    store: &Store,
    device: &str,
    spec: &ForecasterSpec,
    from: Millis,
    to: Millis,
) -> Result<Vec<FeatureRow>, StoreError> {
    let period = spec.period_ms().max(1);
    let (first, last) = (slot_of(from, period), slot_of(to, period));
    let channels = spec.channels();
    let sensors: Vec<String> = channels
        .iter()
        .map(|c| spec.sensor_of(c).to_owned())
        .collect();
    let readings = store
        .readings_between(device, &sensors, first.saturating_sub(period), last)
        .await?;
    let mut samples = Vec::with_capacity(readings.len());
    for reading in readings.iter().filter(|r| r.time_quality > 0) {
        let quality = Quality::from_u8(reading.quality).unwrap_or(Quality::Bad);
        // One sensor may stand behind several channels.
        for (channel, _) in sensors
            .iter()
            .enumerate()
            .filter(|(_, s)| **s == reading.sensor)
        {
            samples.push(Sample {
                channel,
                time: reading.time,
                value: quality.admit(reading.value),
            });
        }
    }
    let mut rows = resample_all(spec, &samples);
    rows.retain(|row| row.time >= from && row.time <= to);
    Ok(rows)
}

/// Computes what waits, until cancelled.
pub async fn run(store: Store, events: broadcast::Sender<HubEvent>, end: CancellationToken) {
    let mut heard = events.subscribe();
    let mut failing = false;
    loop {
        match materialise(&store, &events).await {
            Ok(0) => {
                failing = false;
                // New readings wake it at once; the clock only catches what another hub left behind.
                tokio::select! {
                    () = end.cancelled() => return,
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    _ = heard.recv() => {}
                }
            }
            Ok(_) => failing = false,
            Err(error) => {
                if !failing {
                    tracing::warn!(error = %format!("{error:#}"), "feature rows not computed; trying again");
                }
                failing = true;
                tokio::select! {
                    () = end.cancelled() => return,
                    () = tokio::time::sleep(Duration::from_secs(2)) => {}
                }
            }
        }
    }
}

/// Computes what waits now; returns how many entries were done.
///
/// # Errors
/// The database; what was not finished waits on.
pub async fn materialise(store: &Store, events: &broadcast::Sender<HubEvent>) -> Result<usize> {
    let work = store.feature_work(1_000).await?;
    if work.is_empty() {
        return Ok(0);
    }
    let specs = store.specs_in_force().await?;
    let mut done = 0;
    for entry in work {
        let Some(row) = store.device(&entry.device).await? else {
            store.finish_feature_work(&entry.ids).await?;
            continue;
        };
        let named =
            |spec: &&ForecasterSpec| entry.forecaster.as_ref().is_none_or(|f| *f == spec.name);
        for spec in specs
            .iter()
            .filter(named)
            .filter(|spec| selects(spec, &row.labels))
        {
            let period = spec.period_ms().max(1);
            let (from, to) = (slot_of(entry.from, period), slot_of(entry.to, period));
            let rows = rows_for(store, &entry.device, spec, from, to).await?;
            store
                .put_feature_rows(&entry.device, &spec.name, &rows)
                .await?;
            if let (false, Ok(device)) = (rows.is_empty(), DeviceId::new(entry.device.clone())) {
                let forecaster = spec.name.clone();
                let _ = events.send(HubEvent::FeatureRows {
                    device,
                    forecaster,
                    from,
                    to,
                });
            }
        }
        done += entry.ids.len();
        store.finish_feature_work(&entry.ids).await?;
    }
    Ok(done)
}
