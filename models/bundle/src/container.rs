//! The bundle's file: owns its layout and how it is written, never whether it may be trusted.

use fieldcast_wire::Sha256;
use prost::Message;

use crate::error::VerifyError;
use crate::manifest::{FORMAT, Manifest};
use crate::signed::{Kind, sign as sign_payload};

/// Name of the part with the ONNX graph.
pub const PART_ONNX: &str = "model.onnx";
/// Name of the part with the drift reference statistics (JSON).
pub const PART_REFERENCE: &str = "reference.json";

/// The file: a protobuf message. Its SHA-256 is the bundle's id.
#[derive(Clone, PartialEq, Message)]
pub struct Container {
    /// JSON of the manifest: exactly these bytes are signed.
    #[prost(bytes = "vec", tag = "1")]
    pub manifest: Vec<u8>,
    /// Ed25519 over the bundle domain and the manifest.
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
    /// The hub key that signed.
    #[prost(string, tag = "3")]
    pub key_id: String,
    /// The parts; the manifest holds their hashes.
    #[prost(message, repeated, tag = "4")]
    pub parts: Vec<Part>,
}

/// One named part.
#[derive(Clone, PartialEq, Message)]
pub struct Part {
    /// [`PART_ONNX`] or [`PART_REFERENCE`].
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
}

/// Writes a bundle: fills in format and hashes, and has the manifest signed (`sign` is Ed25519 over the bytes it is given).
///
/// # Errors
/// [`VerifyError::Manifest`] where the manifest is one that no device would take.
pub fn seal(
    mut manifest: Manifest,
    onnx: Vec<u8>,
    reference: Vec<u8>,
    sign: impl Fn(&[u8]) -> [u8; 64],
    key_id: &str,
) -> Result<Vec<u8>, VerifyError> {
    manifest.format = FORMAT;
    manifest.onnx_sha256 = Sha256::of(&onnx).to_string();
    manifest.reference_sha256 = Sha256::of(&reference).to_string();
    let problem = |problem: String| VerifyError::Manifest { problem };
    manifest.check().map_err(problem)?;
    let json = serde_json::to_vec(&manifest).map_err(|e| problem(e.to_string()))?;
    // A NaN would be written as null and then read by nobody.
    serde_json::from_slice::<Manifest>(&json)
        .map_err(|e| problem(format!("it does not survive JSON: {e}")))?;
    let signed = sign_payload(Kind::Bundle, json, key_id, sign);
    let container = Container {
        manifest: signed.payload,
        signature: signed.signature,
        key_id: signed.key_id,
        parts: vec![
            Part {
                name: PART_ONNX.into(),
                bytes: onnx,
            },
            Part {
                name: PART_REFERENCE.into(),
                bytes: reference,
            },
        ],
    };
    Ok(container.encode_to_vec())
}
