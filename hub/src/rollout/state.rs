//! States of devices and rollouts: owns their names, which are ends and what a person may do in them, never the transitions.

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
    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Downloading,
        Self::Verified,
        Self::Shadowing,
        Self::Active,
        Self::Healthy,
        Self::Failed,
        Self::RolledBack,
        Self::Rejected,
        Self::TimedOut,
        Self::Superseded,
    ];

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

/// What a person does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Order nothing new.
    Pause,
    /// Go on.
    Resume,
    /// Let the next stage begin.
    Approve,
    /// Go back.
    Abort,
}

impl Operator {
    /// Everything that a person can do.
    pub const ALL: [Self; 4] = [Self::Pause, Self::Resume, Self::Approve, Self::Abort];

    /// The word for it; none where it is a newer hub's.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.as_str() == word)
    }

    /// The word for it, in requests and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Approve => "approve",
            Self::Abort => "abort",
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
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Awaiting,
        Self::Running,
        Self::Paused,
        Self::RollingBack,
        Self::Succeeded,
        Self::RolledBack,
        Self::Superseded,
    ];

    /// Nothing leads on from here.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::RolledBack | Self::Superseded)
    }

    /// Whether what a person does changes anything in this state.
    #[must_use]
    pub fn takes(self, what: Operator) -> bool {
        match what {
            Operator::Pause => self == Self::Running,
            Operator::Resume => self == Self::Paused,
            Operator::Approve => self == Self::Awaiting,
            Operator::Abort => !self.is_final() && self != Self::RollingBack,
        }
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

/// How the new model did beside the old one on the same windows, as far as is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// Blocks of data time that were judged.
    pub blocks: u32,
    /// Devices that sent any of them.
    pub devices: u32,
    /// Of the blocks those in which no device ran the old model any more: the new one was compared with what ran instead.
    pub instead: u32,
    /// By what share of the old model's loss the new one's is lower.
    pub gain: f64,
    /// With the confidence that the plan's error budget leaves.
    pub lower: f64,
    /// The same, from above.
    pub upper: f64,
    /// What a bet on the new model being better has grown to, from 1.
    pub bet_better: f64,
    /// What it must grow to.
    pub needed_better: f64,
    /// What a bet on the new model being worse has grown to, from 1.
    pub bet_worse: f64,
    /// What it must grow to.
    pub needed_worse: f64,
    /// Shown to be better.
    pub better: bool,
    /// Shown to be worse.
    pub harmful: bool,
    /// Which challenger of the champion's reign this is, from 1: each one's share of the error budget is smaller.
    pub challenger: u32,
    /// Data time from the first block's begin to the last one's end.
    pub span_ms: i64,
    /// Process time at which the newest block was judged first.
    pub heard_at: i64,
    /// Number of the newest row that was read: what has been read is not read again.
    pub newest: i64,
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.blocks == 0 {
            return f.write_str("no block of forecasts by both models is complete yet");
        }
        let word = if self.gain < 0.0 { "higher" } else { "lower" };
        let percent = |v: f64| 100.0 * v;
        let count = |n: u32, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        write!(
            f,
            "over {} of {} the loss is {:.1} % {word} (between {:.1} % and {:.1} % lower); the bet on better stands \
             at {:.2} of {:.0}, on worse at {:.2} of {:.0}",
            count(self.blocks, "block"),
            count(self.devices, "device"),
            percent(self.gain.abs()),
            percent(self.lower),
            percent(self.upper),
            self.bet_better,
            self.needed_better,
            self.bet_worse,
            self.needed_worse
        )?;
        match self.instead {
            0 => Ok(()),
            n => write!(
                f,
                "; in {} no device ran the champion any more, and what they had gone back to took its place",
                count(n, "block")
            ),
        }
    }
}
