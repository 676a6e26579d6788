//! The hub at its own broker, in whose process it is: owns subscribing and handing messages over, never decodes a payload.

use anyhow::{Result, bail};
use fieldcast_wire::Topics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Delivery, Lane, Lanes, Way};
use crate::broker::{Direct, Inbox};
use crate::downlink::Downlink;

/// Takes what comes until cancelled. Where nothing can come any more before that, `end` is cancelled: a hub that hears no device has no
/// use, and what watches over it starts it again.
///
/// Twice a client: telemetry waits while the database is away, and orders, states and blocks must not wait for it.
pub(super) async fn run(
    broker: Direct,
    downlink: Downlink,
    lanes: Lanes,
    connections: watch::Sender<u64>,
    end: CancellationToken,
) {
    let (telemetry, readings) = broker.attach("telemetry").await;
    let (leader, news) = broker.attach("leader").await;
    let filters = downlink.topics().telemetry_filters();
    let heard = async {
        telemetry.subscribe(filters).await?;
        downlink.set_way(Some(Way::Within(broker.clone(), leader)));
        connections.send_modify(|n| *n += 1);
        let topics = downlink.topics();
        tokio::select! {
            () = hand_over(readings, topics, &lanes.telemetry) => bail!("nobody takes telemetry any more"),
            () = hand_over(news, topics, &lanes.leader) => bail!("nobody takes the leader's messages any more"),
            () = broker.ended() => bail!("the embedded broker has ended"),
        }
    };
    let deaf: Result<()> = tokio::select! {
        deaf = heard => deaf,
        () = end.cancelled() => Ok(()),
    };
    downlink.set_way(None);
    if let Err(error) = deaf
        && !end.is_cancelled()
    {
        tracing::error!("{error:#}: this hub hears no device and ends; start it again");
        broker.give_up();
        end.cancel();
    }
}

/// Ends where the lane does.
async fn hand_over(mut inbox: Inbox, topics: &Topics, lane: &Lane) {
    loop {
        let (topic, payload) = inbox.next().await;
        let Some((device, topic)) = topics.parse(&topic) else {
            continue;
        };
        let delivery = Delivery {
            device,
            topic,
            payload,
        };
        if !lane.put(delivery).await {
            return;
        }
    }
}
