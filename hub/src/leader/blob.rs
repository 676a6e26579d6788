//! Blocks of bundles over MQTT: owns the rate bound, never checks a bundle (devices do).

use std::time::Duration;

use anyhow::{Context as _, Result};
use fieldcast_wire::caps::{BLOCK, MAX_BLOCKS_ASKED};
use fieldcast_wire::{DeviceId, DeviceTopic, Sha256, pb};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Desk;

/// One block every 4 ms: 8 MB/s for the whole fleet, so that telemetry keeps its share of the broker.
const EVERY: Duration = Duration::from_millis(4);

/// Answers block requests until cancelled or the channel ends.
pub(super) async fn run(
    desk: Desk,
    mut requests: mpsc::Receiver<(DeviceId, pb::BlobRequest)>,
    end: CancellationToken,
) {
    let mut next = Instant::now();
    loop {
        let request = tokio::select! {
            request = requests.recv() => request,
            () = end.cancelled() => None,
        };
        let Some((device, request)) = request else {
            return;
        };
        if let Err(error) = answer(&desk, &device, &request, &mut next).await {
            tracing::warn!(%device, error = %format!("{error:#}"), "blocks not sent; the device asks again");
        }
    }
}

async fn answer(
    desk: &Desk,
    device: &DeviceId,
    request: &pb::BlobRequest,
    next: &mut Instant,
) -> Result<()> {
    let sha = Sha256::from_slice(&request.sha256).context("a digest must have 32 bytes")?;
    let size = u32::try_from(BLOCK)?;
    for n in blocks(request) {
        sleep_until(*next).await;
        *next = Instant::now().max(*next) + EVERY;
        let block = desk.store.bundle_block(&sha, n, size).await?;
        let block = block.with_context(|| format!("there is no bundle {}", sha.short()))?;
        if block.is_empty() {
            break;
        }
        let topic = desk
            .downlink
            .topics()
            .device(device, DeviceTopic::Block(sha, n));
        desk.downlink.publish(&topic, block, false).await?;
    }
    Ok(())
}

/// The blocks asked for; a request that lists none asks for a run from its first missing block on.
fn blocks(request: &pb::BlobRequest) -> Vec<u32> {
    if request.missing.is_empty() {
        let first = u32::try_from(request.offset_blocks).unwrap_or(u32::MAX);
        let many = u32::try_from(MAX_BLOCKS_ASKED).unwrap_or(0);
        return (first..first.saturating_add(many)).collect();
    }
    request
        .missing
        .iter()
        .copied()
        .take(MAX_BLOCKS_ASKED)
        .collect()
}
