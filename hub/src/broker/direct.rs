//! The hub's way through its own broker within one process: owns publishing and being a subscriber there, never what is said.
//!
//! Over a connection each message would be encoded, written, read, decoded and acknowledged once more, by the one process for both
//! sides (decision 0039).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};
use mqtt5::QoS;
use mqtt5::broker::router::{
    DeliveryLanes, LaneReceivers, MessageRouter, SubscriptionRequest, TakeoverNotice,
};
use mqtt5::broker::storage::client_queue::QueueHandle;
use mqtt5::packet::publish::PublishPacket;
use prost::bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Client ids of the hub begin with it; no device's name can, and no consumer's client id may.
pub(super) const WITHIN: &str = "hub:";
/// Messages that may wait in an inbox. While that is full each publisher waits for up to two seconds, and with it all that its
/// connection is for; what is beyond waits in the broker's queue.
const WAITING: usize = 256;
/// Taken from the broker's queue at once.
const AT_ONCE: usize = 64;

/// The hub's way through its own broker; cheap to clone.
#[derive(Clone)]
pub struct Direct {
    router: Arc<MessageRouter>,
    ended: CancellationToken,
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Direct")
    }
}

impl Direct {
    /// `ended` is cancelled when the broker has ended.
    pub(super) fn new(router: Arc<MessageRouter>, ended: CancellationToken) -> Self {
        Self { router, ended }
    }

    /// Waits for the end of the broker.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Nobody will hear what is said here any more, whether or not the broker has ended.
    pub(crate) fn give_up(&self) {
        self.ended.cancel();
    }

    /// Whether the broker has ended, or was given up.
    pub(crate) fn is_over(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Publishes with QoS 1. A subscriber that takes nothing is waited for no longer than the broker waits for any.
    ///
    /// # Errors
    /// A topic that is none, as names may make one: subscribers would have to close their connections over it.
    pub async fn publish(
        &self,
        topic: &str,
        payload: impl Into<Bytes>,
        retain: bool,
    ) -> Result<()> {
        mqtt5::validate_topic_name(topic).map_err(|e| anyhow!("publish on {topic:?}: {e}"))?;
        let packet = PublishPacket::new(topic, payload, QoS::AtLeastOnce).with_retain(retain);
        self.router.route_message(&packet, None).await;
        Ok(())
    }

    /// Becomes a client of the broker by a name that nobody else in the process has.
    pub(crate) async fn attach(&self, name: &str) -> (Subscriber, Inbox) {
        let client = format!("{WITHIN}{name}");
        let (lanes, receivers) = DeliveryLanes::channel(WAITING);
        let queue = self.router.queue_handle(&client);
        let (displaced, displacement) = oneshot::channel();
        self.router
            .register_session(client.clone(), lanes, Arc::clone(&queue), displaced, true)
            .await;
        let retained = Arc::new(Mutex::new(VecDeque::new()));
        let subscriber = Subscriber {
            router: Arc::clone(&self.router),
            client,
            retained: Arc::clone(&retained),
            queue: Arc::clone(&queue),
        };
        let inbox = Inbox {
            lanes: receivers,
            queue,
            retained,
            taken: VecDeque::new(),
            unacknowledged_first: false,
            _displacement: displacement,
        };
        (subscriber, inbox)
    }
}

/// What was retained when a subscription began.
type Retained = Arc<Mutex<VecDeque<PublishPacket>>>;

/// What a client of the broker asks for; cheap to clone.
#[derive(Clone)]
pub(crate) struct Subscriber {
    router: Arc<MessageRouter>,
    client: String,
    retained: Retained,
    queue: QueueHandle,
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Subscriber")
    }
}

impl Subscriber {
    /// Asks for topics; what is retained there comes before all else, once for each call.
    ///
    /// # Errors
    /// A filter that the library does not take.
    pub(crate) async fn subscribe(&self, filters: impl IntoIterator<Item = String>) -> Result<()> {
        for filter in filters {
            let request =
                SubscriptionRequest::new(self.client.clone(), filter.clone(), QoS::AtLeastOnce);
            self.router
                .subscribe(request)
                .await
                .map_err(|e| anyhow!("subscribe to {filter}: {e}"))?;
            // Put before the rest at once: hardly anything can come meanwhile, which is newer and should not be followed by what was
            // retained before.
            let retained = self.router.get_retained_messages(&filter).await;
            self.retained
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(retained);
            self.queue.notify();
        }
        Ok(())
    }

    /// Gives topics up.
    pub(crate) async fn unsubscribe(&self, filters: impl IntoIterator<Item = String>) {
        for filter in filters {
            self.router.unsubscribe(&self.client, &filter, None).await;
        }
    }
}

/// What comes for a client of the broker; what one device said with QoS 1 in the order of its saying. Where it is not read for long,
/// the broker keeps the newest in a queue of bounded length and size.
#[derive(Debug)]
pub(crate) struct Inbox {
    lanes: LaneReceivers,
    queue: QueueHandle,
    retained: Retained,
    taken: VecDeque<PublishPacket>,
    unacknowledged_first: bool,
    _displacement: oneshot::Receiver<TakeoverNotice>,
}

impl Inbox {
    /// The next message: its topic and its payload.
    pub(crate) async fn next(&mut self) -> (String, Vec<u8>) {
        let packet = loop {
            if let Some(packet) = self.ready() {
                break packet;
            }
            self.queue.finish_drain();
            let queued = self.queue.take(AT_ONCE).await;
            if !queued.is_empty() {
                let packets = queued
                    .into_iter()
                    .map(|message| message.to_publish_packet());
                self.taken.extend(packets);
                continue;
            }
            tokio::select! {
                // None only where the broker is gone: nothing comes any more.
                Some(message) = self.lanes.recv() => break message.publish,
                () = self.queue.notified() => {}
            }
        };
        (packet.topic_name, packet.payload.to_vec())
    }

    /// What is here already.
    fn ready(&mut self) -> Option<PublishPacket> {
        let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(packet) = retained.pop_front() {
            return Some(packet);
        }
        drop(retained);
        // In turns: who asks for no acknowledgement is not kept out by those who do.
        self.unacknowledged_first = !self.unacknowledged_first;
        if self.unacknowledged_first
            && let Ok(message) = self.lanes.qos0.try_recv()
        {
            return Some(message.publish);
        }
        // What a device said before its messages had to queue is in the lane, and while there is a queue no message of it comes there.
        let message = self.lanes.qos1.try_recv().map(|message| message.publish);
        message.ok().or_else(|| self.taken.pop_front())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn direct() -> Direct {
        Direct::new(Arc::new(MessageRouter::new()), CancellationToken::new())
    }

    async fn publish(direct: &Direct, topic: &str, payload: usize, retain: bool) {
        let payload = payload.to_string().into_bytes();
        direct.publish(topic, payload, retain).await.unwrap();
    }

    async fn read(inbox: &mut Inbox, n: usize) -> Vec<(String, usize)> {
        let mut read = Vec::new();
        for _ in 0..n {
            let (topic, payload) = inbox.next().await;
            let payload = String::from_utf8(payload).unwrap().parse().unwrap();
            read.push((topic, payload));
        }
        read
    }

    async fn nothing(inbox: &mut Inbox) -> bool {
        let more = tokio::time::timeout(std::time::Duration::from_millis(1), inbox.next());
        more.await.is_err()
    }

    #[tokio::test]
    async fn what_comes_faster_than_it_is_read_waits_in_the_order_of_its_coming() {
        let direct = direct();
        let (subscriber, mut inbox) = direct.attach("t").await;
        subscriber.subscribe(["s/+/up".to_owned()]).await.unwrap();
        // The lane takes some; the next waits for it, and then queues as do those behind it.
        for n in 0..WAITING + 10 {
            publish(&direct, "s/a/up", n, false).await;
        }
        assert!(inbox.queue.behind());
        let mut got = read(&mut inbox, WAITING + 5).await;
        // While any of what was queued is unread, what comes stands behind it.
        publish(&direct, "s/a/up", WAITING + 10, false).await;
        got.extend(read(&mut inbox, 6).await);
        publish(&direct, "s/a/up", WAITING + 11, false).await;
        publish(&direct, "s/a/down", 0, false).await;
        publish(&direct, "s/a/up", WAITING + 12, false).await;
        got.extend(read(&mut inbox, 2).await);
        let sent: Vec<_> = (0..WAITING + 13)
            .map(|n| ("s/a/up".to_owned(), n))
            .collect();
        assert_eq!(got, sent);
        assert!(nothing(&mut inbox).await);
        assert!(!inbox.queue.behind());
    }

    #[tokio::test]
    async fn what_asks_for_no_acknowledgement_comes_between_what_does() {
        let direct = direct();
        let (subscriber, mut inbox) = direct.attach("t").await;
        subscriber.subscribe(["s".to_owned()]).await.unwrap();
        for n in 0..4 {
            publish(&direct, "s", n, false).await;
        }
        let unacknowledged = PublishPacket::new("s", b"9".to_vec(), QoS::AtMostOnce);
        direct.router.route_message(&unacknowledged, None).await;
        let got: Vec<_> = read(&mut inbox, 5).await.into_iter().map(|m| m.1).collect();
        assert!(got.iter().position(|n| *n == 9).unwrap() < 2, "{got:?}");
        assert!(nothing(&mut inbox).await);
    }

    #[tokio::test]
    async fn a_subscriber_gets_what_is_retained_until_it_gives_the_topic_up() {
        let direct = direct();
        publish(&direct, "s/a/state", 1, true).await;
        publish(&direct, "s/b/state", 2, false).await;
        let (subscriber, mut inbox) = direct.attach("t").await;
        let states = || ["s/+/state".to_owned()];
        subscriber.subscribe(states()).await.unwrap();
        publish(&direct, "s/b/state", 3, true).await;
        let got = read(&mut inbox, 2).await;
        assert_eq!(got, [("s/a/state".into(), 1), ("s/b/state".into(), 3)]);
        subscriber.unsubscribe(states()).await;
        publish(&direct, "s/a/state", 4, true).await;
        // Asked for anew: both once more, and nothing of what came in between by itself.
        subscriber.subscribe(states()).await.unwrap();
        let mut got = read(&mut inbox, 2).await;
        got.sort();
        assert_eq!(got, [("s/a/state".into(), 4), ("s/b/state".into(), 3)]);
        assert!(nothing(&mut inbox).await);
    }
}
