//! The hub's keys over time: owns that a new list of hub keys reaches this process and every device, and what revoking one would
//! cost, never a private key.

use std::time::Duration;

use anyhow::{Context as _, Result};
use fieldcast_bundle::{Caps, UnverifiedBundle};
use fieldcast_store::Store;
use fieldcast_store::aliases::Title;
use fieldcast_wire::Sha256;

use crate::app::Hub;

const EVERY: Duration = Duration::from_secs(2);

/// Takes up the list in force whenever it is another, and publishes it to every device while this hub leads; until cancelled.
pub async fn attend(hub: Hub) {
    let (mut due, mut said) = (false, String::new());
    while !hub.end.is_cancelled() {
        let problem = look(&hub, &mut due).await.err();
        let problem = problem.map(|e| format!("{e:#}")).unwrap_or_default();
        if problem != said && !problem.is_empty() {
            tracing::error!("take up the list of hub keys: {problem}; tried again");
        }
        said = problem;
        tokio::select! {
            () = hub.end.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn look(hub: &Hub, due: &mut bool) -> Result<()> {
    if hub.signer.refresh(&hub.store).await? {
        let (version, key) = (hub.signer.list_version(), hub.signer.key_id());
        tracing::info!(version, key, "another list of hub keys is in force");
        *due = true;
    }
    let leads = *hub.leads.borrow();
    // Who leads or connects later publishes everything anyway.
    if *due && leads && hub.downlink.connected() {
        hub.downlink.refresh_all().await?;
    }
    if hub.downlink.connected() {
        *due = false;
    }
    Ok(())
}

/// Champions and challengers whose bundle a key signed: without it on the list, devices refuse them.
///
/// # Errors
/// The database, or a bundle that cannot be read.
pub async fn signed_by(store: &Store, key: &str) -> Result<Vec<(String, i64)>> {
    let mut found = Vec::new();
    for forecaster in store.forecasters().await? {
        let name = forecaster.name;
        let champion = store.champion(&name).await?.map(|c| c.version);
        let challenger = store.holder(Title::Challenger, &name).await?;
        for version in champion.into_iter().chain(challenger) {
            let Some(row) = store.model_version(&name, version).await? else {
                continue;
            };
            let sha = Sha256::from_hex(&row.bundle).context("the bundle's digest is malformed")?;
            let Some(bytes) = store.bundle(&sha).await? else {
                continue;
            };
            // What is no bundle was signed by nobody.
            let signer = UnverifiedBundle::parse(&bytes, &Caps::default());
            if signer.is_ok_and(|b| b.key_id() == key) {
                found.push((name.clone(), version));
            }
        }
    }
    Ok(found)
}
