//! The way up: owns the connection to the broker and what goes over it; decides in [`machine`], never stores.

mod client;
mod driver;
pub mod machine;

use fieldcast_wire::{Sha256, pb};
use tokio::sync::{broadcast, mpsc, watch};

pub use driver::start;

/// What the rest of the agent hears from the hub.
#[derive(Debug, Clone)]
pub enum UplinkEvent {
    /// The connection is up; retained messages follow.
    Connected,
    /// The connection is lost; readings and forecasts go on.
    Disconnected,
    /// Signed orders, not verified yet.
    Desired(Box<pb::Desired>),
    /// A block of a bundle, not verified yet.
    Block {
        /// Bundle.
        sha256: Sha256,
        /// Number of the block.
        n: u32,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

#[derive(Debug)]
pub(crate) enum Request {
    State(Box<pb::State>),
    Blob(pb::BlobRequest),
}

/// What the rest of the agent asks of the uplink; clones share it.
#[derive(Debug, Clone)]
pub struct UplinkHandle {
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<UplinkEvent>,
    online: watch::Receiver<bool>,
}

impl UplinkHandle {
    /// Publishes what runs, retained, now and after every reconnection. The uplink adds boot and count.
    pub async fn publish_state(&self, state: pb::State) {
        // An uplink that has ended has nobody to tell.
        let _ = self.requests.send(Request::State(Box::new(state))).await;
    }

    /// Asks for blocks of a bundle; without a connection the request is dropped and must be made again.
    pub async fn request_blob(&self, sha256: Sha256, missing: Vec<u32>) {
        let request = pb::BlobRequest { sha256: sha256.to_vec(), offset_blocks: 0, missing };
        let _ = self.requests.send(Request::Blob(request)).await;
    }

    /// Events from now on; who falls behind by 256 misses the oldest and must ask again.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<UplinkEvent> {
        self.events.subscribe()
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn online(&self) -> watch::Receiver<bool> {
        self.online.clone()
    }
}
