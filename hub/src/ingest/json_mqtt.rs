//! JSON readings that come by MQTT: owns that each document ends in rows or in quarantine and that its sender learns which,
//! never the reading of JSON.

use fieldcast_store::Store;
use fieldcast_wire::{DeviceId, DeviceTopic, Sha256};
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};

use super::json::{self, JsonError, Stored};
use super::{Backoff, out, stray};
use crate::downlink::Downlink;
use crate::events::HubEvent;

/// Refusals named in a receipt; their number is always told.
const NAMED: usize = 100;

/// Stores one document, waiting for a database that is away, and publishes its receipt on `dn/json`.
pub(super) async fn document(
    store: &Store,
    downlink: &Downlink,
    device: &DeviceId,
    payload: &[u8],
    out: &mpsc::Sender<out::Message>,
    events: &broadcast::Sender<HubEvent>,
) {
    let mut backoff = Backoff::new();
    let stored = match fieldcast_wire::json::parse(payload) {
        Err(error) => Err(error.into()),
        Ok(readings) => loop {
            match json::store(store, device, &readings).await {
                // Nothing sends these again unless the receipt stays away: they wait for the database, unacknowledged.
                Err(error) if error.is_transient() => {
                    tracing::warn!(%device, %error, "the database takes no JSON readings; trying again");
                    backoff.wait().await;
                }
                Ok(stored) => {
                    json::tell(device, &readings, &stored, out, events);
                    break Ok(stored);
                }
                Err(error) => break Err(error),
            }
        },
    };
    let refused = match &stored {
        Ok(stored) => stored.rejected.first().map(|(at, why)| {
            format!(
                "{} readings refused; reading {at}: {why}",
                stored.rejected.len()
            )
        }),
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = &refused {
        tracing::warn!(%device, reason, "JSON readings not taken as they are");
        if !matches!(stored, Err(JsonError::UnknownDevice(_))) {
            stray(store, device, payload, reason, out).await;
        }
    }
    let topic = downlink.topics().device(device, DeviceTopic::JsonReceipt);
    let receipt = receipt(payload, &stored).to_string().into_bytes();
    if let Err(error) = downlink.publish(&topic, receipt, false).await {
        tracing::debug!(%device, error = %format!("{error:#}"), "receipt not sent; who waits for it sends again");
    }
}

fn receipt(payload: &[u8], stored: &Result<Stored, JsonError>) -> Value {
    let sha256 = Sha256::of(payload).to_string();
    match stored {
        Ok(stored) => {
            let named = stored.rejected.iter().take(NAMED);
            let rejected: Vec<Value> = named
                .map(|(at, why)| json!({ "reading": at, "reason": why }))
                .collect();
            json!({
                "sha256": sha256, "new": stored.new, "known": stored.known,
                "refused": stored.rejected.len(), "rejected": rejected,
            })
        }
        Err(error) => json!({ "sha256": sha256, "error": error.to_string() }),
    }
}
