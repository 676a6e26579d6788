//! Devices that have come and are to be told what they shall do: owns who still waits, never what is said.
//!
//! Devices do not ask the broker what it retains: some compare each subscription with everything that they retain, and a fleet that
//! comes back would cost by its square (decision 0025).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fieldcast_wire::DeviceId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::downlink::Downlink;

/// How long others are gathered after some were told.
const GATHER: Duration = Duration::from_millis(100);
/// How long after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// Told at once.
const AT_ONCE: usize = 1_000;

/// Who has come and was not yet told; each once, however often it knocks.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    waiting: Mutex<BTreeSet<String>>,
    come: Notify,
}

impl Newcomers {
    fn waiting<T>(&self, with: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        with(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A device has come.
    pub(super) fn add(&self, device: &DeviceId) {
        if self.waiting(|names| names.insert(device.to_string())) {
            self.come.notify_one();
        }
    }

    /// Some of those who wait, who then no longer do.
    fn take(&self) -> Vec<String> {
        self.waiting(|names| {
            let rest = names.iter().nth(AT_ONCE).cloned();
            let rest = rest.map_or_else(BTreeSet::new, |first| names.split_off(&first));
            std::mem::replace(names, rest).into_iter().collect()
        })
    }

    /// These were not told.
    fn again(&self, names: impl IntoIterator<Item = String>) {
        self.waiting(|waiting| waiting.extend(names));
    }
}

/// Tells who has come until cancelled.
pub(super) async fn run(downlink: Downlink, newcomers: Arc<Newcomers>, end: CancellationToken) {
    loop {
        let names = newcomers.take();
        let wait = if names.is_empty() {
            tokio::select! {
                () = newcomers.come.notified() => continue,
                () = end.cancelled() => return,
            }
        } else {
            let mut told = BTreeSet::new();
            let done = downlink.greet(&names, |name| {
                let _ = told.insert(name.to_owned());
            });
            match done.await {
                Ok(()) => GATHER,
                // Whoever takes a connection over tells everyone.
                Err(_) if !downlink.connected() => AGAIN,
                Err(error) => {
                    let left: Vec<String> =
                        names.into_iter().filter(|n| !told.contains(n)).collect();
                    tracing::warn!(devices = left.len(), error = %format!("{error:#}"), "orders not sent to devices that came; trying again");
                    newcomers.again(left);
                    AGAIN
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = end.cancelled() => return,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn each_waits_once_and_who_was_not_told_waits_again() {
        let newcomers = Newcomers::default();
        for n in 0..=AT_ONCE {
            let device = DeviceId::new(format!("d{n:05}")).unwrap();
            newcomers.add(&device);
            newcomers.add(&device);
        }
        let first = newcomers.take();
        assert_eq!((first.len(), first[0].as_str()), (AT_ONCE, "d00000"));
        newcomers.again(first.into_iter().skip(AT_ONCE - 1));
        assert_eq!(newcomers.take(), ["d00999", "d01000"]);
        assert!(newcomers.take().is_empty());
    }
}
