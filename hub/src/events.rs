//! What happens inside the hub, after COMMIT: owns the event type, never a decision. The database is the truth.

use std::collections::BTreeMap;

use fieldcast_features::Millis;
use fieldcast_wire::{DeviceId, pb};

/// Something that is committed; receivers may miss some and must look into the database anyway.
#[derive(Debug, Clone)]
pub enum HubEvent {
    /// A device raised or ended drift conditions.
    DriftSignals {
        /// Who.
        device: DeviceId,
    },
    /// A newer state of a device was stored.
    State {
        /// Who.
        device: DeviceId,
        /// What runs on it.
        state: Box<pb::State>,
    },
    /// Readings were stored.
    Committed {
        /// Whose.
        device: DeviceId,
        /// Newest data time of each sensor among them.
        newest: BTreeMap<String, Millis>,
        /// How many readings.
        readings: u64,
    },
    /// Outcomes of orders or commands were stored.
    Outcomes {
        /// Whose.
        device: DeviceId,
    },
}
