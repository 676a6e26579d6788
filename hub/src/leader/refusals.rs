//! Messages that cannot be read, on their way into quarantine: owns how many of them wait, never what becomes of one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use fieldcast_wire::DeviceId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Desk;

/// How many wait; a device that sends rubbish must hold up nobody, and take no memory.
const WAITING: usize = 64;
/// How long others are gathered after a round.
const GATHER: Duration = Duration::from_millis(100);

/// A message that cannot be read, and why.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) device: DeviceId,
    pub(super) payload: Vec<u8>,
    pub(super) reason: String,
}

/// The way into quarantine; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Refusals {
    sender: mpsc::Sender<Refusal>,
    dropped: Arc<AtomicU64>,
}

impl Refusals {
    pub(super) fn new() -> (Self, mpsc::Receiver<Refusal>) {
        let (sender, waiting) = mpsc::channel(WAITING);
        let dropped = Arc::default();
        (Self { sender, dropped }, waiting)
    }

    /// Hands one over at once; where too many wait it is dropped and counted.
    pub(super) fn add(&self, refusal: Refusal) {
        if self.sender.try_send(refusal).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// The number of those dropped since it was last asked for.
    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }
}

/// Refuses them, at most one a device and round, until cancelled or nobody sends any more.
pub(super) async fn run(
    desk: Desk,
    mut waiting: mpsc::Receiver<Refusal>,
    dropped: Arc<AtomicU64>,
    end: CancellationToken,
) {
    let mut round = Vec::new();
    loop {
        tokio::select! {
            _ = waiting.recv_many(&mut round, WAITING) => {}
            () = end.cancelled() => return,
        }
        if round.is_empty() {
            return;
        }
        let came = round.len();
        let first = one_each(std::mem::take(&mut round));
        let more = dropped.swap(0, Relaxed) + (came - first.len()) as u64;
        if more > 0 {
            tracing::warn!(
                more,
                "too many messages that cannot be read; these are not kept"
            );
        }
        for refusal in first {
            // It waits for a database that is away.
            tokio::select! {
                () = desk.refuse(&refusal) => {}
                () = end.cancelled() => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(GATHER) => {}
            () = end.cancelled() => return,
        }
    }
}

/// The first one of each device.
pub(super) fn one_each(refusals: Vec<Refusal>) -> Vec<Refusal> {
    let mut first = BTreeMap::new();
    for refusal in refusals {
        first.entry(refusal.device.clone()).or_insert(refusal);
    }
    first.into_values().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn refusal(device: &str, n: usize) -> Refusal {
        Refusal {
            device: DeviceId::new(device).unwrap(),
            payload: n.to_be_bytes().to_vec(),
            reason: "rubbish".into(),
        }
    }

    #[test]
    fn a_device_has_one_a_round_and_what_is_too_much_is_dropped_and_counted() {
        let (refusals, mut waiting) = Refusals::new();
        refusals.add(refusal("b", 0));
        for n in 0..WAITING + 9 {
            refusals.add(refusal("a", n));
        }
        assert_eq!(refusals.dropped().load(Relaxed), 10);
        let mut round = Vec::new();
        while let Ok(refusal) = waiting.try_recv() {
            round.push(refusal);
        }
        assert_eq!(round.len(), WAITING);
        let first = one_each(round);
        let names: Vec<&str> = first.iter().map(|r| r.device.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(first[0].payload, 0_usize.to_be_bytes());
    }
}
