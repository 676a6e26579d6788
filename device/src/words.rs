//! The words of an update: phases, bundles, orders, what happens and what is to be done; decides nothing.

use fieldcast_features::Millis;
use fieldcast_wire::{Sha256, pb};
use serde::{Deserialize, Serialize};

use crate::death::Death;
use crate::pace::Took;

/// Where the newest order stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No order yet.
    #[default]
    None,
    /// Its bundle is on the way.
    Downloading,
    /// Its bundle is here and is being checked and loaded.
    Verified,
    /// Its model watches.
    Shadowing,
    /// Its model runs, on probation.
    Active,
    /// Its model has proved itself.
    Healthy,
    /// Its bundle was refused.
    Rejected,
    /// Its model failed and the last good one runs again.
    RolledBack,
    /// It failed otherwise.
    Failed,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::None,
        Self::Downloading,
        Self::Verified,
        Self::Shadowing,
        Self::Active,
        Self::Healthy,
        Self::Rejected,
        Self::RolledBack,
        Self::Failed,
    ];

    /// As people and metrics read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Downloading => "downloading",
            Self::Verified => "verified",
            Self::Shadowing => "shadowing",
            Self::Active => "active",
            Self::Healthy => "healthy",
            Self::Rejected => "rejected",
            Self::RolledBack => "rolled_back",
            Self::Failed => "failed",
        }
    }

    /// As it goes to the hub.
    #[must_use]
    pub fn wire(self) -> pb::ModelPhase {
        match self {
            Self::None => pb::ModelPhase::None,
            Self::Downloading => pb::ModelPhase::Downloading,
            Self::Verified => pb::ModelPhase::Verified,
            Self::Shadowing => pb::ModelPhase::Shadowing,
            Self::Active => pb::ModelPhase::Active,
            Self::Healthy => pb::ModelPhase::Healthy,
            Self::Rejected => pb::ModelPhase::Rejected,
            Self::RolledBack => pb::ModelPhase::RolledBack,
            Self::Failed => pb::ModelPhase::Failed,
        }
    }
}

/// A bundle that is on this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Digest, hexadecimal.
    pub sha: String,
    /// Model version.
    pub version: u64,
}

impl Installed {
    /// The digest.
    #[must_use]
    pub fn digest(&self) -> Option<Sha256> {
        Sha256::from_hex(&self.sha)
    }
}

/// What a verified order asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The bundle; none orders the device back to its own baselines.
    pub bundle: Option<Installed>,
    /// Its bytes.
    pub size: usize,
    /// Beside the running model instead of in its place.
    pub shadow: bool,
    /// Generation of the order.
    pub generation: u64,
    /// Attempt within it.
    pub attempt: u32,
    /// From this time on it is given up.
    pub expires: Millis,
}

impl Target {
    /// Whether it asks for this bundle.
    #[must_use]
    pub fn names(&self, sha: &str) -> bool {
        self.bundle.as_ref().is_some_and(|i| i.sha == sha)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The process started, the last one having died with a model at work, or not.
    Started(Option<Death>),
    /// A verified order.
    Ordered(Target),
    /// A bundle is complete on disk.
    Fetched(String),
    /// A bundle cannot be fetched now and is tried again later; nothing in words where that is over.
    Waiting(String, String),
    /// A bundle will not come.
    Unfetchable(String, String),
    /// A bundle passed every check and its model is loaded.
    Loaded(String),
    /// A bundle did not pass.
    Refused(String, String),
    /// A bundle cannot be checked now: that says nothing about it, and it is checked again later.
    Unchecked(String, String),
    /// An order was not obeyed.
    NotObeyed(String),
    /// A model has no usable window.
    NoWindow(String, String),
    /// A model made a forecast of finite numbers.
    Forecasted(String, Took),
    /// A model could not.
    Failed(String, String),
    /// A model has been far worse than the device's own naive forecast.
    Worse(String, String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Get the bundle.
    Fetch(Target),
    /// Check and load a new one from disk: an expired one is refused.
    Take(Installed),
    /// Check and load one that is in place or proved itself: it is held against no clock any more.
    Load(Installed),
    /// Let the loaded model forecast.
    Activate(String),
    /// Let the loaded model watch.
    Watch(String),
    /// No model: baselines.
    Baseline,
    /// Nothing watches.
    Unwatch,
    /// Tell the hub how an order ended.
    Outcome {
        /// Generation of the order.
        generation: u64,
        /// Attempt within it.
        attempt: u32,
        /// Whether it was fulfilled.
        ok: bool,
        /// In words.
        message: String,
    },
}
