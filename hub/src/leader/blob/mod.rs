//! Blocks of bundles over MQTT: carries out whose turn it is, from memory and at a pace; never checks a bundle (devices do).

mod cache;
mod pace;
mod queue;

use anyhow::{Context as _, Result};
use fieldcast_wire::{DeviceId, DeviceTopic, Sha256, message, pb};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Desk;
use cache::Cache;
use pace::Pace;
use queue::{Queue, Turn};

/// A block request and the digest of its bundle, or why it cannot be read.
pub(super) fn read(payload: &[u8]) -> Result<(Sha256, pb::BlobRequest), String> {
    let request: pb::BlobRequest = message::receive(payload).map_err(|e| e.to_string())?;
    let sha = Sha256::from_slice(&request.sha256);
    let sha = sha.ok_or("block request: a digest must have 32 bytes")?;
    Ok((sha, request))
}

/// Answers block requests until cancelled or the channel ends.
pub(super) async fn run(
    desk: Desk,
    mut requests: mpsc::Receiver<(DeviceId, Sha256, pb::BlobRequest)>,
    end: CancellationToken,
) {
    let (mut queue, mut cache, mut pace) = (Queue::default(), Cache::default(), Pace::default());
    let mut next = Instant::now();
    loop {
        let waits = !queue.is_empty();
        tokio::select! {
            // Requests first: they cost nothing, and who asks again replaces what it asked before.
            biased;
            () = end.cancelled() => return,
            request = requests.recv() => match request {
                Some((device, sha, request)) => if !queue.ask(device.clone(), sha, &request) {
                    tracing::debug!(%device, "too many devices wait for blocks; the device asks again");
                },
                None => return,
            },
            () = sleep_until(next), if waits => {
                let Some(turn) = queue.next() else { continue };
                let device = &turn.device;
                match send(&desk, &mut cache, &turn).await {
                    Ok(Some((bytes, waited))) => next = Instant::now() + pace.sent(bytes, waited),
                    // Behind the end of the bundle: the rest of the request is too.
                    Ok(None) => queue.forget(device),
                    Err(error) => {
                        queue.forget(device);
                        tracing::warn!(%device, error = %format!("{error:#}"), "blocks not sent; the device asks again");
                    }
                }
            }
        }
    }
}

/// Sends one block; answers its size and how long the connection let it wait, or none behind the end of the bundle.
async fn send(
    desk: &Desk,
    cache: &mut Cache,
    turn: &Turn,
) -> Result<Option<(usize, std::time::Duration)>> {
    let (now, sha) = (Instant::now(), turn.sha);
    if cache.get(&sha, now).is_none() {
        let bytes = desk.store.bundle(&sha).await?;
        cache.put(sha, bytes, now);
    }
    let bundle = cache.get(&sha, now).flatten();
    let bundle = bundle.with_context(|| format!("there is no bundle {}", sha.short()))?;
    let Some(block) = bundle.get(usize::try_from(turn.number)?) else {
        return Ok(None);
    };
    let (topic, payload) = if turn.framed {
        (DeviceTopic::Blocks, block.framed())
    } else {
        (DeviceTopic::Block(sha, turn.number), block.content())
    };
    let size = payload.len();
    let topic = desk.downlink.topics().device(&turn.device, topic);
    let began = Instant::now();
    desk.downlink.publish(&topic, payload, false).await?;
    Ok(Some((size, began.elapsed())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn requests_that_cannot_be_read_are_told_apart_before_they_wait() {
        let request = |sha256: Vec<u8>| pb::BlobRequest {
            sha256,
            ..pb::BlobRequest::default()
        };
        let sound = request(vec![7; 32]);
        let read_back = read(&message::encode(&sound)).unwrap();
        assert_eq!(read_back, (Sha256([7; 32]), sound));
        let short = read(&message::encode(&request(vec![7; 31]))).unwrap_err();
        assert!(short.contains("32 bytes"), "{short}");
        assert!(read(&[0xff; 9]).is_err());
    }
}
