//! From bytes to a trusted bundle: owns the order of the checks, never the keys' origin and never a file.

use fieldcast_features::Millis;
use fieldcast_wire::{Sha256, caps, pb::Signed};
use prost::Message;

use crate::container::{Container, PART_ONNX, PART_REFERENCE};
use crate::error::VerifyError;
use crate::keys::KeyRing;
use crate::manifest::{FORMAT, Manifest};
use crate::signed::{Kind, verify as verify_signature};

/// Parts of a container beyond which nothing is decoded.
const MAX_PARTS: usize = 8;
/// Field number of [`Container::parts`].
const PARTS_TAG: u32 = 4;

/// What may be how large, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// The whole file.
    pub bundle: usize,
    /// The manifest's JSON; golden vectors are most of it.
    pub manifest: usize,
    /// One part.
    pub part: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            bundle: caps::MAX_BUNDLE,
            manifest: 8 * 1024 * 1024,
            part: 28 * 1024 * 1024,
        }
    }
}

/// What a verified order made the device expect.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// SHA-256 of the file.
    pub sha256: Sha256,
    /// The forecaster it must be for.
    pub forecaster: &'a str,
    /// Version of this agent, `major.minor.patch`.
    pub agent_version: &'a str,
}

/// A bundle of which nothing is known but that it can be read; nothing in it can be reached.
#[derive(Debug)]
pub struct UnverifiedBundle {
    sha256: Sha256,
    signed: Signed,
    parts: Vec<crate::Part>,
}

/// A bundle that passed every check but the golden vectors, which only a runtime can make.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedBundle {
    sha256: Sha256,
    manifest: Manifest,
    onnx: Vec<u8>,
    reference: Vec<u8>,
}

impl UnverifiedBundle {
    /// Reads the container.
    ///
    /// # Errors
    /// Over a cap, truncated or not a bundle.
    pub fn parse(bytes: &[u8], caps: &Caps) -> Result<Self, VerifyError> {
        // The sizes first (step 6 below): with few parts, decoding allocates at most what the file holds.
        cap("the file", bytes.len(), caps.bundle)?;
        few_parts(bytes).map_err(|problem| VerifyError::Malformed { problem })?;
        let container = Container::decode(bytes).map_err(|e| VerifyError::Malformed {
            problem: e.to_string(),
        })?;
        cap("the manifest", container.manifest.len(), caps.manifest)?;
        for part in &container.parts {
            cap("a part", part.bytes.len(), caps.part)?;
        }
        let signed = Signed {
            payload: container.manifest,
            signature: container.signature,
            key_id: container.key_id,
        };
        Ok(Self {
            sha256: Sha256::of(bytes),
            signed,
            parts: container.parts,
        })
    }

    /// The key that it says signed it; nothing proves that yet.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.signed.key_id
    }

    /// Checks everything, in the order of `docs/protocol.md`.
    ///
    /// `now` is the device's best time; a device with a wrong clock refuses what has expired by that clock.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(
        self,
        ring: &KeyRing,
        expected: &Expected<'_>,
        now: Millis,
    ) -> Result<VerifiedBundle, VerifyError> {
        // 1 and 2: the key list in force holds the key, and the key signed exactly these bytes.
        let payload = verify_signature(Kind::Bundle, &self.signed, ring)?;
        let manifest = read_manifest(payload)?;
        // 3: it is what was ordered from this device.
        if self.sha256 != expected.sha256 {
            return Err(VerifyError::OtherBundle {
                found: self.sha256.to_string(),
                expected: expected.sha256.to_string(),
            });
        }
        if manifest.forecaster.name != expected.forecaster {
            return Err(VerifyError::OtherForecaster {
                found: manifest.forecaster.name,
                expected: expected.forecaster.into(),
            });
        }
        // 4, the generation, is the order's: see `order`.
        // 5: it has not expired.
        if let Some(expires) = manifest.expires.filter(|expires| now >= *expires) {
            return Err(VerifyError::Expired { expires, now });
        }
        // 6: the caps were checked before anything was decoded; what is left are the counts.
        manifest
            .check()
            .map_err(|problem| VerifyError::Manifest { problem })?;
        // 7: the parts are exactly those that were signed.
        let [onnx, reference] = parts(self.parts)?;
        hash(PART_ONNX, &onnx, &manifest.onnx_sha256)?;
        hash(PART_REFERENCE, &reference, &manifest.reference_sha256)?;
        // 8: this agent is new enough; the feature pipeline's version is the runtime's to check.
        if older(expected.agent_version, &manifest.min_agent)? {
            return Err(VerifyError::OldAgent {
                needed: manifest.min_agent,
                agent: expected.agent_version.into(),
            });
        }
        // 9, the golden vectors, is the runtime's: loading a verified bundle reproduces them.
        Ok(VerifiedBundle {
            sha256: self.sha256,
            manifest,
            onnx,
            reference,
        })
    }
}

impl VerifiedBundle {
    /// The bundle's id: SHA-256 of the whole file.
    #[must_use]
    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// What the hub signed.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The ONNX graph.
    #[must_use]
    pub fn onnx(&self) -> &[u8] {
        &self.onnx
    }

    /// JSON of the drift reference statistics.
    #[must_use]
    pub fn reference(&self) -> &[u8] {
        &self.reference
    }
}

fn cap(what: &str, found: usize, cap: usize) -> Result<(), VerifyError> {
    if found <= cap {
        Ok(())
    } else {
        Err(VerifyError::TooLarge {
            what: what.into(),
            found,
            cap,
        })
    }
}

/// Counts the parts before any is made: two bytes of the file could otherwise become one in memory each.
fn few_parts(mut bytes: &[u8]) -> Result<(), String> {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    let mut count = 0;
    while !bytes.is_empty() {
        let (tag, kind) = decode_key(&mut bytes).map_err(|e| e.to_string())?;
        count += usize::from(tag == PARTS_TAG);
        if count > MAX_PARTS {
            return Err(format!("it has more than {MAX_PARTS} parts"));
        }
        skip_field(kind, tag, &mut bytes, DecodeContext::default()).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The format is read first, so that a manifest of another time is called that and not broken.
fn read_manifest(json: &[u8]) -> Result<Manifest, VerifyError> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let problem = |e: serde_json::Error| VerifyError::Manifest {
        problem: e.to_string(),
    };
    let Format { format } = serde_json::from_slice(json).map_err(problem)?;
    if format != FORMAT {
        return Err(VerifyError::Format {
            found: format,
            supported: FORMAT,
        });
    }
    serde_json::from_slice(json).map_err(problem)
}

/// Exactly the two parts, each once, under any order.
fn parts(parts: Vec<crate::Part>) -> Result<[Vec<u8>; 2], VerifyError> {
    let mut found = [None, None];
    for part in parts {
        let refuse = |problem| {
            Err(VerifyError::Part {
                part: part.name.chars().take(64).collect(),
                problem,
            })
        };
        let slot = match part.name.as_str() {
            PART_ONNX => 0,
            PART_REFERENCE => 1,
            _ => return refuse("is not one that a bundle has"),
        };
        if found[slot].is_some() {
            return refuse("is there twice");
        }
        found[slot] = Some(part.bytes);
    }
    let missing = |part: &str| VerifyError::Part {
        part: part.into(),
        problem: "is missing",
    };
    let [onnx, reference] = found;
    Ok([
        onnx.ok_or_else(|| missing(PART_ONNX))?,
        reference.ok_or_else(|| missing(PART_REFERENCE))?,
    ])
}

fn hash(part: &str, bytes: &[u8], expected: &str) -> Result<(), VerifyError> {
    if Some(Sha256::of(bytes)) == Sha256::from_hex(expected) {
        Ok(())
    } else {
        Err(VerifyError::Part {
            part: part.into(),
            problem: "is not the one that was signed",
        })
    }
}

/// Whether `agent` is older than `needed`; both `major.minor.patch`, what follows a `-` or `+` does not count.
fn older(agent: &str, needed: &str) -> Result<bool, VerifyError> {
    let parse = |text: &str| -> Result<[u32; 3], VerifyError> {
        let core = text.split(['-', '+']).next().unwrap_or_default();
        let numbers: Result<Vec<u32>, _> = core.split('.').map(str::parse).collect();
        numbers
            .ok()
            .and_then(|n| n.try_into().ok())
            .ok_or_else(|| VerifyError::Manifest {
                problem: format!("agent version `{text}` is not `major.minor.patch`"),
            })
    };
    Ok(parse(agent)? < parse(needed)?)
}
