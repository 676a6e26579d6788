//! Orders and commands: owns when a device obeys one, never what obeying does or what was obeyed before.

use fieldcast_features::Millis;
use fieldcast_wire::pb::{Command, Order, Signed, Stage};
use fieldcast_wire::{Sha256, caps, message};

use crate::error::{OrderError, SignatureError};
use crate::keys::KeyRing;
use crate::signed::{Kind, verify};

/// Who is asked to obey.
#[derive(Debug, Clone, Copy)]
pub struct Me<'a> {
    /// The device's site.
    pub site: &'a str,
    /// The device.
    pub device: &'a str,
}

/// An order that may be obeyed.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedOrder {
    /// The forecaster it is about.
    pub forecaster: String,
    /// The model to run; none where the device is to go on with its own baselines.
    pub model: Option<OrderedModel>,
    /// Beside the champion, or in its place.
    pub stage: Stage,
    /// Never lower than the last one obeyed.
    pub generation: u64,
    /// Attempt within the generation.
    pub attempt: u32,
    /// When the hub issued it.
    pub issued: Millis,
    /// From this time on it is refused.
    pub expires: Millis,
}

/// The model of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderedModel {
    /// Its bundle.
    pub bundle: Sha256,
    /// Bytes of the bundle, at most [`caps::MAX_BUNDLE`].
    pub size: usize,
    /// Model version.
    pub version: u64,
}

/// A command that may be obeyed; whether it was already is the caller's to know, by its id.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedCommand {
    /// Unique id; its outcome is reported under it.
    pub id: String,
    /// What to do.
    pub name: String,
    /// With what.
    pub argument: String,
    /// From this time on it is refused.
    pub expires: Millis,
}

/// Checks an order, in the order of `docs/protocol.md`.
///
/// `last_generation` gives the highest generation obeyed for a forecaster, 0 for none.
///
/// # Errors
/// The first check that fails.
pub fn verify_order(
    signed: &Signed,
    ring: &KeyRing,
    me: Me<'_>,
    last_generation: impl FnOnce(&str) -> u64,
    now: Millis,
) -> Result<VerifiedOrder, OrderError> {
    // 1 and 2: the key list in force holds the key, and the key signed exactly these bytes.
    let payload = verify(Kind::Order, signed, ring)?;
    let order: Order = decode("order", payload)?;
    let subject = format!("order {}/{}", order.forecaster, order.generation);
    // 3: it is addressed to this device.
    addressed(&subject, &order.site, &order.device, me)?;
    if !name_allowed(&order.forecaster) {
        return Err(OrderError::Name {
            found: order.forecaster.chars().take(caps::MAX_NAME).collect(),
        });
    }
    // 4: going back takes a new order, so an old one is a replay.
    let last = last_generation(&order.forecaster);
    if order.generation < last {
        return Err(OrderError::OldGeneration {
            subject,
            found: order.generation,
            last,
        });
    }
    // 5: it has not expired.
    alive(&subject, order.expires_ms, now)?;
    // 6: sizes, before anything is fetched.
    let unusable = |problem: &str| OrderError::Unusable {
        subject: subject.clone(),
        problem: problem.into(),
    };
    let stage = Stage::try_from(order.stage).unwrap_or(Stage::Unspecified);
    if stage == Stage::Unspecified {
        return Err(unusable("its stage is unknown to this agent"));
    }
    let none = order.bundle.is_empty() && order.bundle_size == 0 && order.model_version == 0;
    let model = if none && stage == Stage::Active {
        None
    } else {
        let size = usize::try_from(order.bundle_size).unwrap_or(usize::MAX);
        if size == 0 || size > caps::MAX_BUNDLE {
            return Err(unusable("its bundle is empty or over the cap"));
        }
        let bundle = Sha256::from_slice(&order.bundle)
            .ok_or_else(|| unusable("its hash is not 32 bytes"))?;
        let version = order.model_version;
        Some(OrderedModel {
            bundle,
            size,
            version,
        })
    };
    // 7 to 9, hashes, versions and golden vectors, are the bundle's.
    Ok(VerifiedOrder {
        forecaster: order.forecaster,
        model,
        stage,
        generation: order.generation,
        attempt: order.attempt,
        issued: order.issued_ms,
        expires: order.expires_ms,
    })
}

/// Checks a command, in the same order.
///
/// # Errors
/// The first check that fails.
pub fn verify_command(
    signed: &Signed,
    ring: &KeyRing,
    me: Me<'_>,
    now: Millis,
) -> Result<VerifiedCommand, OrderError> {
    let payload = verify(Kind::Command, signed, ring)?;
    let command: Command = decode("command", payload)?;
    let subject = format!("command {} ({})", command.id, command.name);
    addressed(&subject, &command.site, &command.device, me)?;
    alive(&subject, command.expires_ms, now)?;
    if command.id.is_empty()
        || command.id.len() > caps::MAX_NAME
        || command.argument.len() > caps::MAX_TEXT
    {
        return Err(OrderError::Unusable {
            subject,
            problem: "its id or argument is empty or too long".into(),
        });
    }
    Ok(VerifiedCommand {
        id: command.id,
        name: command.name,
        argument: command.argument,
        expires: command.expires_ms,
    })
}

/// What a forecaster may be called; its definition must pass the same rule.
fn name_allowed(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= caps::MAX_NAME
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

fn decode<M: prost::Message + Default>(
    kind: &'static str,
    payload: &[u8],
) -> Result<M, SignatureError> {
    message::decode(kind, payload).map_err(|e| SignatureError::Malformed {
        kind,
        problem: e.to_string(),
    })
}

fn addressed(subject: &str, site: &str, device: &str, me: Me<'_>) -> Result<(), OrderError> {
    if site == me.site && device == me.device {
        return Ok(());
    }
    Err(OrderError::NotForMe {
        subject: subject.into(),
        found: format!("{site}/{device}"),
        me: format!("{}/{}", me.site, me.device),
    })
}

fn alive(subject: &str, expires_ms: i64, now_ms: i64) -> Result<(), OrderError> {
    if now_ms < expires_ms {
        return Ok(());
    }
    Err(OrderError::Expired {
        subject: subject.into(),
        expires_ms,
        now_ms,
    })
}
