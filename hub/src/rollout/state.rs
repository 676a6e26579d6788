//! States of devices and rollouts: owns their names and which are ends, never the transitions between them.

use serde::{Deserialize, Serialize};

/// A device's state within a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Not ordered yet, or ordered and not heard of.
    Pending,
    /// Fetching the bundle.
    Downloading,
    /// Signature, hashes and golden vectors hold on this device.
    Verified,
    /// Runs beside the champion.
    Shadowing,
    /// Runs, on probation.
    Active,
    /// Runs after probation, as the inference path reports.
    Healthy,
    /// Could not be activated.
    Failed,
    /// Went back to its last good bundle, by itself or by order.
    RolledBack,
    /// Refused the bundle or the order.
    Rejected,
    /// Online, and not settled at the deadline.
    TimedOut,
    /// A newer order stands.
    Superseded,
}

impl DeviceState {
    pub(crate) fn failed(self) -> bool {
        matches!(
            self,
            Self::Failed | Self::RolledBack | Self::Rejected | Self::TimedOut
        )
    }
    /// The state as it is written in the database and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Downloading => "downloading",
            Self::Verified => "verified",
            Self::Shadowing => "shadowing",
            Self::Active => "active",
            Self::Healthy => "healthy",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed_out",
            Self::Superseded => "superseded",
        }
    }
}

/// State of the whole rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The next stage waits for a person.
    Awaiting,
    /// Orders are out.
    Running,
    /// Nothing new is ordered until it is resumed.
    Paused,
    /// Orders back are out.
    RollingBack,
    /// Final: the version is the champion.
    Succeeded,
    /// Final: the devices were ordered back.
    RolledBack,
    /// Final: a newer rollout took over.
    Superseded,
}

impl Status {
    /// Nothing leads on from here.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::RolledBack | Self::Superseded)
    }
    /// The status as it is written in the database and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Awaiting => "awaiting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::RollingBack => "rolling_back",
            Self::Succeeded => "succeeded",
            Self::RolledBack => "rolled_back",
            Self::Superseded => "superseded",
        }
    }
}
