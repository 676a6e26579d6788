//! Where readings come from: files and HTTP, handing runs of readings to the engine; never decides what is forecast.

pub mod http;
pub mod json;
pub mod line_protocol;
pub mod pace;
mod records;
pub mod replay;
pub mod rows;
pub mod tail;

use std::sync::Arc;

use fieldcast_features::Millis;
use fieldcast_wire::pb;
use tokio::sync::{mpsc, oneshot};

/// A reading as a source found it, before any check.
#[derive(Debug, Clone, PartialEq)]
pub struct RawReading {
    /// Named channel.
    pub sensor: String,
    /// Data time.
    pub time: Millis,
    /// As found; not necessarily finite.
    pub value: f64,
    /// Whose clock `time` is.
    pub time_source: pb::TimeSource,
}

/// One step of a source's stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A reading.
    Reading(RawReading),
    /// Nothing before this data time will come any more from the sensors of this source.
    Complete(Millis),
    /// See which live sensors have fallen silent.
    Look,
}

/// A run of items that is committed as a whole, together with the source's place in its input.
#[derive(Debug)]
pub struct Ingest {
    /// The source, for messages.
    pub source: Arc<str>,
    /// Sensors that [`Item::Complete`] speaks of.
    pub sensors: Arc<[String]>,
    /// In the order they are to be taken.
    pub items: Vec<Item>,
    /// Key and value that say where to go on, written in the same transaction.
    pub cursor: Option<(String, Vec<u8>)>,
    /// What the source has to complain about.
    pub alarms: Vec<pb::Alarm>,
    /// Answered after the commit.
    pub reply: oneshot::Sender<Result<Accepted, NotAccepted>>,
}

/// What became of a run whose commit succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Readings that are in the buffer now.
    pub stored: usize,
    /// Readings that are not, by index among the run's readings, and why.
    pub refused: Vec<(usize, String)>,
}

/// Nothing of the run was taken; the same run may be offered again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("readings of {source_name} were not stored: {problem}; they are offered again")]
pub struct NotAccepted {
    /// The source.
    pub source_name: String,
    /// What the buffer says.
    pub problem: String,
}

/// At most 40 characters of foreign text, for messages.
fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The way from all sources into the engine: bounded, so that a slow buffer slows the sources down.
pub type IngestSender = mpsc::Sender<Ingest>;

/// Length of that way, in runs.
pub const INGEST_QUEUE: usize = 32;
