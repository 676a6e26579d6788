//! Records: everything sequenced that goes up. Owns their shape in memory, never their storage.

use crate::pb;

/// One reading as a source handed it over.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Named channel.
    pub sensor: String,
    /// Data time, milliseconds UTC.
    pub time: i64,
    /// Value in the sensor's physical unit; always finite.
    pub value: f64,
    /// 0 good, 1 suspect, 2 bad.
    pub quality: u8,
    /// Whose clock `time` is.
    pub time_source: pb::TimeSource,
}

/// A record and its number within the epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Gapless number within the epoch, from 1.
    pub seq: u64,
    /// What happened.
    pub body: RecordBody,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordBody {
    /// A reading.
    Reading(Reading),
    /// A forecast.
    Forecast(pb::Forecast),
    /// Errors of past forecasts.
    Residual(pb::ResidualSummary),
    /// Something that will never come.
    Gap(pb::Gap),
    /// A drift condition raised or ended.
    Drift(pb::DriftSignal),
    /// An alarm raised or ended.
    Alarm(pb::Alarm),
    /// What is known of the device's clock.
    Clock(pb::ClockFact),
    /// Outcome of an order or command.
    Outcome(pb::Outcome),
    /// What a sensor's readings of a span were.
    Sketch(pb::SensorSketch),
    /// How the running and the watching model did on the same windows.
    Paired(pb::PairedLosses),
}
