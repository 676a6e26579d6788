//! Which hub leads: owns trying and letting go, never what a leader does.

use std::time::Duration;

use fieldcast_store::Store;
use fieldcast_store::locks::Held;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::downlink::Downlink;

/// How often a hub tries, and a leader looks whether it still is one.
const LOOK: Duration = Duration::from_secs(2);
/// How long a hub that hears no broker leaves the lead to those that do.
const AFTER_YOU: Duration = Duration::from_secs(6);
/// A leader that hears no broker lets go after so long,
const DEAF: Duration = Duration::from_secs(10);
/// and after so long where nobody else took the lead when it was free.
const DEAF_ALONE: Duration = Duration::from_secs(40);

/// Tries to lead and says whether it does, until cancelled.
///
/// A leader without a connection to the broker takes no states and serves no blocks, so it lets hubs with one lead;
/// where there is none it leads again a few seconds later, for what needs no broker, and offers the lead from time to time.
pub async fn elect(
    store: Store,
    downlink: Downlink,
    mut connections: watch::Receiver<u64>,
    leads: watch::Sender<bool>,
    end: CancellationToken,
) {
    while !end.is_cancelled() {
        if !downlink.connected() {
            pause(AFTER_YOU, &mut connections, &end).await;
            if end.is_cancelled() {
                return;
            }
        }
        match store.try_lead().await {
            Ok(Some(leadership)) => {
                tracing::info!("this hub leads");
                leads.send_replace(true);
                let patience = if downlink.connected() {
                    DEAF
                } else {
                    DEAF_ALONE
                };
                lead(leadership, patience, &downlink, &leads, &end).await;
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "cannot lead without a database"),
        }
        pause(LOOK, &mut connections, &end).await;
    }
}

/// Leads until the lock is lost, the broker has been away for too long, or cancelled.
async fn lead(
    mut leadership: Held,
    patience: Duration,
    downlink: &Downlink,
    leads: &watch::Sender<bool>,
    end: &CancellationToken,
) {
    let (mut patience, mut heard) = (patience, Instant::now());
    while leadership.alive().await && !end.is_cancelled() {
        if downlink.connected() {
            (patience, heard) = (DEAF, Instant::now());
        } else if heard.elapsed() > patience {
            tracing::warn!(
                "this hub leads and has no connection to the broker; it lets another hub lead, if there is one that has"
            );
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = end.cancelled() => {}
        }
    }
    leads.send_replace(false);
    leadership.release().await;
}

/// Waits so long, or until the broker is there, or cancelled.
async fn pause(longest: Duration, connections: &mut watch::Receiver<u64>, end: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(longest) => {}
        Ok(()) = connections.changed() => {}
        () = end.cancelled() => {}
    }
}
