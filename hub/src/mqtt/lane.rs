//! What came and waits for the hub: owns how much of it is kept and in which order it is acknowledged, never what is done with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};

use super::{Delivery, Receipt};

/// As many as a broker can have under way: it tells them apart by numbers of 16 bits.
const NUMBERS: usize = u16::MAX as usize;
/// A message takes whole pages of the room, so that many small ones are bounded too.
const PAGE: usize = 4 * 1024;

/// Messages of a lane.
#[derive(Debug)]
enum Waiting {
    Kept(Delivery),
    /// There was no room for it, but its acknowledgement has its place among the others: some brokers (Mosquitto) walk over all that is under
    /// way until they come to the one that is acknowledged.
    Dropped(Receipt),
}

/// Where messages are put.
#[derive(Debug, Clone)]
pub struct Lane {
    name: &'static str,
    waiting: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    pages: u32,
    full: Arc<AtomicBool>,
}

/// Where they are taken.
#[derive(Debug)]
pub struct Arrivals {
    waiting: mpsc::Receiver<Waiting>,
    dropped: Option<Receipt>,
}

/// A lane that keeps so many bytes; a small message counts as 4 KiB.
#[must_use]
pub fn lane(name: &'static str, bytes: usize) -> (Lane, Arrivals) {
    let (sender, receiver) = mpsc::channel(NUMBERS);
    let pages = u32::try_from((bytes / PAGE).max(1)).unwrap_or(u32::MAX);
    let lane = Lane {
        name,
        waiting: sender,
        room: Arc::new(Semaphore::new(pages as usize)),
        pages,
        full: Arc::default(),
    };
    let arrivals = Arrivals {
        waiting: receiver,
        dropped: None,
    };
    (lane, arrivals)
}

impl Lane {
    /// Never more than there are: also the largest has room in an empty lane.
    fn pages(&self, delivery: &Delivery) -> u32 {
        let pages = delivery.payload.len().div_ceil(PAGE).max(1);
        u32::try_from(pages).unwrap_or(u32::MAX).min(self.pages)
    }

    /// Puts a message where there is room, and else only what acknowledges it.
    pub(super) fn offer(&self, mut delivery: Delivery) {
        let room = Arc::clone(&self.room);
        let waiting = match room.try_acquire_many_owned(self.pages(&delivery)) {
            Ok(room) => {
                delivery.receipt.room = Some(room);
                if self.room.available_permits() > self.pages as usize / 2 {
                    self.full.store(false, Ordering::Relaxed);
                }
                Waiting::Kept(delivery)
            }
            Err(_) => {
                if !self.full.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        lane = self.name,
                        "more comes than this hub keeps up with: messages are dropped, which devices send again, until half of the lane is free"
                    );
                }
                Waiting::Dropped(delivery.receipt)
            }
        };
        self.append(waiting);
    }

    /// Has acknowledged in its turn what is for nobody here.
    pub(super) fn decline(&self, receipt: Receipt) {
        self.append(Waiting::Dropped(receipt));
    }

    fn append(&self, waiting: Waiting) {
        if matches!(&waiting, Waiting::Dropped(receipt) if receipt.asked.is_none()) {
            return;
        }
        if let Err(TrySendError::Full(_)) = self.waiting.try_send(waiting) {
            let lane = self.name;
            tracing::debug!(lane, "the broker has more under way than it has numbers");
        }
    }

    /// Waits for room; false where nobody takes anything any more.
    pub(super) async fn put(&self, mut delivery: Delivery) -> bool {
        let room = Arc::clone(&self.room);
        let room = room.acquire_many_owned(self.pages(&delivery)).await;
        delivery.receipt.room = room.ok();
        let waiting = Waiting::Kept(delivery);
        self.waiting.send(waiting).await.is_ok()
    }
}

impl Arrivals {
    /// The next message; none where nothing comes any more. Loses nothing where it is no longer waited for.
    pub async fn recv(&mut self) -> Option<Delivery> {
        loop {
            if let Some(receipt) = &self.dropped {
                receipt.acknowledge().await;
                self.dropped = None;
            }
            match self.waiting.recv().await? {
                Waiting::Kept(delivery) => return Some(delivery),
                Waiting::Dropped(receipt) => self.dropped = Some(receipt),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fieldcast_wire::{DeviceId, DeviceTopic};
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Publish;
    use rumqttc::v5::{AsyncClient, MqttOptions};

    use super::*;

    fn message(client: &AsyncClient, number: u16, bytes: usize) -> Delivery {
        let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new(), None);
        publish.pkid = number;
        Delivery {
            device: DeviceId::new("a").unwrap(),
            topic: DeviceTopic::Live,
            payload: vec![0; bytes],
            receipt: Receipt::of(client, &publish),
        }
    }

    #[tokio::test]
    async fn what_has_no_room_loses_its_payload_and_keeps_its_turn() {
        let (client, _events) = AsyncClient::new(MqttOptions::new("hub", "localhost", 1), 1);
        let (lane, mut arrivals) = lane("test", 4 * PAGE);
        for (number, bytes) in [(1, 2 * PAGE + 1), (2, 2 * PAGE), (3, 10), (4, 10)] {
            lane.offer(message(&client, number, bytes));
        }
        assert!(lane.full.load(Ordering::Relaxed));
        let first = arrivals.recv().await.unwrap();
        assert_eq!(first.payload.len(), 2 * PAGE + 1);
        // The second is acknowledged; where nobody waits any longer in the middle of that, neither it nor what follows is lost.
        let third = arrivals.recv().await.unwrap();
        assert_eq!(third.payload.len(), 10);
        lane.decline(Receipt::of(
            &client,
            &Publish::new("", QoS::AtLeastOnce, Vec::new(), None),
        ));
        lane.offer(message(&client, 6, 3 * PAGE));
        drop(first);
        lane.offer(message(&client, 7, 3 * PAGE));
        assert!(lane.full.load(Ordering::Relaxed), "not half of it is free");
        for _ in 0..3 {
            let waited =
                tokio::time::timeout(std::time::Duration::from_millis(50), arrivals.recv());
            assert!(
                waited.await.is_err(),
                "the client takes one acknowledgement"
            );
        }
        assert!(arrivals.dropped.is_some());
        assert_eq!(lane.room.available_permits(), 0);
        drop((third, lane));
    }

    #[tokio::test]
    async fn even_what_is_larger_than_a_lane_has_room_in_an_empty_one() {
        let (client, _events) = AsyncClient::new(MqttOptions::new("hub", "localhost", 1), 1);
        let (lane, mut arrivals) = lane("test", PAGE);
        assert!(lane.put(message(&client, 1, 3 * PAGE)).await);
        lane.offer(message(&client, 2, 1));
        drop(arrivals.recv().await.unwrap());
        assert!(lane.put(message(&client, 3, 1)).await);
    }
}
