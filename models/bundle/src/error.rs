//! Why something is not trusted: owns the reasons and what to do about each, never a decision.

/// A signature or key list that does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No such key in the list in force.
    #[error(
        "verifying the {kind}: key `{key_id}` is not in key list {list_version}; let the hub publish a list that holds it, or refuse the sender"
    )]
    UnknownKey {
        /// What was signed.
        kind: &'static str,
        /// The key it names.
        key_id: String,
        /// Version of the list in force.
        list_version: u64,
    },
    /// The bytes were not signed by that key, or not as this kind.
    #[error(
        "verifying the {kind}: the signature is not key `{key_id}`'s; fetch it again, and look at who sent it"
    )]
    Wrong {
        /// What was signed.
        kind: &'static str,
        /// The key it names.
        key_id: String,
    },
    /// The list is older than the one in force, or another one of the same version.
    #[error(
        "accepting the key list: version {found} does not follow version {in_force} in force; the root must sign a higher version"
    )]
    OldKeyList {
        /// Version of the refused list.
        found: u64,
        /// Version in force.
        in_force: u64,
    },
    /// Signed, and yet not readable.
    #[error("reading the {kind}: {problem}; sign it again with a hub of this version")]
    Malformed {
        /// What was signed.
        kind: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl SignatureError {
    /// Number of the check in `docs/protocol.md` that failed.
    #[must_use]
    pub fn step(&self) -> &'static str {
        match self {
            Self::OldKeyList { .. } => "V1",
            Self::UnknownKey { .. } | Self::Wrong { .. } | Self::Malformed { .. } => "V2",
        }
    }
}

/// Why an order or command is not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Not trusted.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// For someone else.
    #[error(
        "obeying {subject}: it is addressed to `{found}`, this is `{me}`; check which device the hub means"
    )]
    NotForMe {
        /// Order or command.
        subject: String,
        /// Address in it.
        found: String,
        /// This device.
        me: String,
    },
    /// A forecaster that cannot exist.
    #[error(
        "obeying an order: the forecaster `{found}` is not 1 to 64 of a-z, 0-9, `-`, `_`; the hub must name it so"
    )]
    Name {
        /// The name in it, cut.
        found: String,
    },
    /// Older than one already obeyed.
    #[error(
        "obeying {subject}: generation {found} is below {last}, which was obeyed already; the hub must issue a new order, also to go back"
    )]
    OldGeneration {
        /// The order.
        subject: String,
        /// Its generation.
        found: u64,
        /// The highest one obeyed.
        last: u64,
    },
    /// Too late.
    #[error(
        "obeying {subject}: it expired at {expires_ms} ms, now is {now_ms} ms; issue it again, and check the device's clock"
    )]
    Expired {
        /// Order or command.
        subject: String,
        /// Its expiry.
        expires_ms: i64,
        /// The device's time.
        now_ms: i64,
    },
    /// Over a cap or out of range.
    #[error("obeying {subject}: {problem}; the hub must issue a correct one")]
    Unusable {
        /// Order or command.
        subject: String,
        /// What is wrong.
        problem: String,
    },
}

impl OrderError {
    /// Number of the check in `docs/protocol.md` that failed.
    #[must_use]
    pub fn step(&self) -> &'static str {
        match self {
            Self::Signature(e) => e.step(),
            Self::NotForMe { .. } | Self::Name { .. } => "V3",
            Self::OldGeneration { .. } => "V4",
            Self::Expired { .. } => "V5",
            Self::Unusable { .. } => "V6",
        }
    }
}

/// Why a bundle is not used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum VerifyError {
    /// Over a cap, before anything was read.
    #[error(
        "reading the bundle: {what} has {found} bytes, {cap} are allowed; train a smaller model or raise the cap on both sides"
    )]
    TooLarge {
        /// File, manifest or part.
        what: String,
        /// Its bytes.
        found: usize,
        /// The cap.
        cap: usize,
    },
    /// Not a bundle, or a truncated one.
    #[error("reading the bundle: {problem}; fetch it again")]
    Malformed {
        /// What is wrong.
        problem: String,
    },
    /// Not trusted.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Another file than the one that was ordered.
    #[error(
        "verifying the bundle: its SHA-256 is {found}, the order says {expected}; fetch it again"
    )]
    OtherBundle {
        /// Of the bytes.
        found: String,
        /// Of the order.
        expected: String,
    },
    /// A format of another time.
    #[error("verifying the bundle: format {found} is not {supported}; update the older side")]
    Format {
        /// In the manifest.
        found: u32,
        /// Ours.
        supported: u32,
    },
    /// For another forecaster.
    #[error(
        "verifying the bundle: it is for forecaster `{found}`, ordered was `{expected}`; the hub must order the right one"
    )]
    OtherForecaster {
        /// In the manifest.
        found: String,
        /// Of the order.
        expected: String,
    },
    /// Needs a newer agent.
    #[error("verifying the bundle: it needs agent {needed}, this is {agent}; update the agent")]
    OldAgent {
        /// In the manifest.
        needed: String,
        /// This agent.
        agent: String,
    },
    /// Too late.
    #[error(
        "verifying the bundle: it expired at {expires} ms, now is {now} ms; train a new one, and check the device's clock"
    )]
    Expired {
        /// In the manifest.
        expires: i64,
        /// The device's time.
        now: i64,
    },
    /// A part that is not what was signed.
    #[error(
        "verifying the bundle: part `{part}` {problem}; fetch it again, and look at who sent it"
    )]
    Part {
        /// The part's name.
        part: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The manifest contradicts itself.
    #[error("verifying the bundle: its manifest is unusable: {problem}; seal it again")]
    Manifest {
        /// What is wrong.
        problem: String,
    },
}

impl VerifyError {
    /// Number of the check in `docs/protocol.md` that failed.
    #[must_use]
    pub fn step(&self) -> &'static str {
        match self {
            Self::Signature(e) => e.step(),
            Self::OtherForecaster { .. } => "V3",
            Self::Expired { .. } => "V5",
            Self::TooLarge { .. } => "V6",
            Self::Malformed { .. }
            | Self::OtherBundle { .. }
            | Self::Part { .. }
            | Self::Format { .. }
            | Self::Manifest { .. } => "V7",
            Self::OldAgent { .. } => "V8",
        }
    }
}
