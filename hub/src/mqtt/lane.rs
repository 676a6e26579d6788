//! What came and waits for the hub: owns how much of it is kept, never what is done with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Delivery;

/// A message takes whole pages of the room, so that many small ones are bounded too.
const PAGE: usize = 4 * 1024;

/// What a message takes of its lane, until it is dropped.
#[derive(Debug)]
pub struct Room(
    #[expect(dead_code, reason = "gives back when dropped")] Option<OwnedSemaphorePermit>,
);

/// Where messages are put.
#[derive(Debug, Clone)]
pub struct Lane {
    name: &'static str,
    waiting: mpsc::Sender<(Delivery, Room)>,
    room: Arc<Semaphore>,
    pages: u32,
    full: Arc<AtomicBool>,
}

/// Where they are taken.
pub type Arrivals = mpsc::Receiver<(Delivery, Room)>;

/// A lane that keeps so many bytes; a small message counts as 4 KiB.
#[must_use]
pub fn lane(name: &'static str, bytes: usize) -> (Lane, Arrivals) {
    let pages = (bytes / PAGE).max(1);
    let (sender, receiver) = mpsc::channel(pages);
    let lane = Lane {
        name,
        waiting: sender,
        room: Arc::new(Semaphore::new(pages)),
        pages: u32::try_from(pages).unwrap_or(u32::MAX),
        full: Arc::default(),
    };
    (lane, receiver)
}

impl Lane {
    /// Never more than there are: also the largest has room in an empty lane.
    fn pages(&self, delivery: &Delivery) -> u32 {
        let pages = delivery.payload.len().div_ceil(PAGE).max(1);
        u32::try_from(pages).unwrap_or(u32::MAX).min(self.pages)
    }

    /// Puts a message where there is room; else it is dropped, and said so once.
    pub(super) fn offer(&self, delivery: Delivery) {
        let room = Arc::clone(&self.room);
        let Ok(room) = room.try_acquire_many_owned(self.pages(&delivery)) else {
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    lane = self.name,
                    "more comes than this hub keeps up with: messages are dropped until half of the lane is free; devices send again what was not acknowledged"
                );
            }
            return;
        };
        if self.room.available_permits() > self.pages as usize / 2 {
            self.full.store(false, Ordering::Relaxed);
        }
        // There is a place for each page. Where nobody takes anything any more, the hub ends.
        let _ = self.waiting.try_send((delivery, Room(Some(room))));
    }

    /// Waits for room; false where nobody takes anything any more.
    pub(super) async fn put(&self, delivery: Delivery) -> bool {
        let room = Arc::clone(&self.room);
        let room = room.acquire_many_owned(self.pages(&delivery)).await.ok();
        self.waiting.send((delivery, Room(room))).await.is_ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fieldcast_wire::{DeviceId, DeviceTopic};

    use super::*;

    fn message(bytes: usize) -> Delivery {
        Delivery {
            device: DeviceId::new("a").unwrap(),
            topic: DeviceTopic::Live,
            payload: vec![0; bytes],
        }
    }

    #[test]
    fn what_has_no_room_is_dropped_until_what_is_there_is_dealt_with() {
        let (lane, mut arrivals) = lane("test", 4 * PAGE);
        for bytes in [2 * PAGE + 1, 2 * PAGE, 10, 11] {
            lane.offer(message(bytes));
        }
        assert!(lane.full.load(Ordering::Relaxed));
        let (first, room) = arrivals.try_recv().unwrap();
        assert_eq!(first.payload.len(), 2 * PAGE + 1);
        let (second, rest) = arrivals.try_recv().unwrap();
        assert_eq!(second.payload.len(), 10, "the one before had no room");
        lane.offer(message(12));
        assert!(arrivals.try_recv().is_err(), "taken, not dealt with");
        drop(room);
        lane.offer(message(2 * PAGE));
        assert!(lane.full.load(Ordering::Relaxed), "not half of it is free");
        drop((rest, arrivals.try_recv().unwrap()));
        lane.offer(message(13));
        assert!(!lane.full.load(Ordering::Relaxed));
        assert_eq!(arrivals.try_recv().unwrap().0.payload.len(), 13);
    }

    #[tokio::test]
    async fn even_what_is_larger_than_a_lane_has_room_in_an_empty_one() {
        let (lane, mut arrivals) = lane("test", PAGE);
        assert!(lane.put(message(3 * PAGE)).await);
        lane.offer(message(1));
        drop(arrivals.recv().await.unwrap());
        assert!(lane.put(message(1)).await);
    }
}
