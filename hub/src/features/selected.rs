//! Whom a forecaster is for: owns which devices its selector names and how new their data are, never a row.

use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_store::{Result, Store};

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
