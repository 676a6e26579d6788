//! All that device and hub agree on: names, topics, payloads and size caps. No I/O, no clock, no SQL.
//!
//! `proto/fieldcast.proto` is the public contract; [`pb`] is generated from it and kept in the
//! repository, so that a build needs no protobuf compiler. [`batch`] turns records into sealed
//! payloads and back; everything else is small enough to be used as its protobuf message.

pub mod batch;
pub mod caps;
mod columns;
pub mod digest;
pub mod ids;
pub mod json;
pub mod message;
pub mod record;
mod shape;
pub mod topics;
mod values;

pub use batch::{Batch, BatchError};
pub use digest::Sha256;
pub use ids::{DeviceId, Epoch, IdError, SensorName, SiteId};
pub use record::{Reading, Record, RecordBody};
pub use topics::{DeviceTopic, Topics};

/// Protobuf messages, generated from `proto/fieldcast.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    reason = "generated; documented in the .proto"
)]
#[rustfmt::skip]
pub mod pb;

/// Version of the layouts of `up/sync` and `dn/ack` that this crate writes; it reads this one and the two before it.
pub const SCHEMA: u32 = 1;
/// The same of batches. 2 came with sketches and paired losses, 3 with decimals and values told once: a batch is written as the
/// oldest version that has all that is in it.
pub const BATCH_SCHEMA: u32 = 3;
