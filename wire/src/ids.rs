//! Names of devices, sites, sensors and buffer epochs: owns their rules, never their meaning.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::caps::MAX_NAME;

/// A name that breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name `{name}` is not allowed: use {rule}")]
pub struct IdError {
    kind: &'static str,
    name: String,
    rule: &'static str,
}

const ID_RULE: &str = "1 to 64 of a-z, A-Z, 0-9, `-`, `_` and `.`";
const SENSOR_RULE: &str =
    "1 to 64 bytes of printable characters without `/`, `+` and `#`, but not `alarm` or `forecast`";
/// Stand where a sensor's name stands in the topics for consumers.
const TAKEN: [&str; 2] = ["alarm", "forecast"];

fn plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn sensor(name: &str) -> bool {
    !name.trim().is_empty()
        && name.len() <= MAX_NAME
        && !TAKEN.contains(&name)
        && !name
            .chars()
            .any(|c| c.is_control() || matches!(c, '/' | '+' | '#'))
}

fn clip(name: &str) -> String {
    name.chars().take(MAX_NAME + 1).collect()
}

/// A device's identity: MQTT user name, client id and topic level.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

/// A site: one hub's fleet and the topic level above its devices.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SiteId(String);

/// A named channel of a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SensorName(String);

impl DeviceId {
    /// Checks and wraps a device id.
    ///
    /// # Errors
    /// The rule, where the name breaks it.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        if plain(&name) {
            Ok(Self(name))
        } else {
            Err(IdError {
                kind: "device",
                name: clip(&name),
                rule: ID_RULE,
            })
        }
    }
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SiteId {
    /// Checks and wraps a site id.
    ///
    /// # Errors
    /// The rule, where the name breaks it.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        if plain(&name) {
            Ok(Self(name))
        } else {
            Err(IdError {
                kind: "site",
                name: clip(&name),
                rule: ID_RULE,
            })
        }
    }
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SensorName {
    /// Checks and wraps a sensor name.
    ///
    /// # Errors
    /// The rule, where the name breaks it.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        if sensor(&name) {
            Ok(Self(name))
        } else {
            Err(IdError {
                kind: "sensor",
                name: clip(&name),
                rule: SENSOR_RULE,
            })
        }
    }
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DeviceId {
    type Error = IdError;
    fn try_from(name: String) -> Result<Self, IdError> {
        Self::new(name)
    }
}
impl TryFrom<String> for SiteId {
    type Error = IdError;
    fn try_from(name: String) -> Result<Self, IdError> {
        Self::new(name)
    }
}
impl TryFrom<String> for SensorName {
    type Error = IdError;
    fn try_from(name: String) -> Result<Self, IdError> {
        Self::new(name)
    }
}
impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0
    }
}
impl From<SiteId> for String {
    fn from(id: SiteId) -> Self {
        id.0
    }
}
impl From<SensorName> for String {
    fn from(id: SensorName) -> Self {
        id.0
    }
}
impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Display for SensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A buffer file's identity, made with the file: record and batch numbers count within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub uuid::Uuid);

impl Epoch {
    /// From the 16 bytes of a payload.
    ///
    /// # Errors
    /// Where there are not exactly 16.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
        uuid::Uuid::from_slice(bytes)
            .map(Self)
            .map_err(|_| IdError {
                kind: "epoch",
                name: format!("{} bytes", bytes.len()),
                rule: "a UUID of 16 bytes",
            })
    }
    /// The 16 bytes for a payload.
    #[must_use]
    pub fn to_vec(self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
