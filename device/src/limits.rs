//! Limits of the uplink: owns their meaning and their defaults.

/// Limits of the uplink. Times in milliseconds of process time.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Unacknowledged live batches.
    pub live_inflight: usize,
    /// Unacknowledged backlog batches.
    pub backlog_inflight: usize,
    /// Backlog bytes a second.
    pub backlog_bytes_per_s: u64,
    /// No ack after this long: send again; longer where acks take long.
    pub ack_deadline: i64,
    /// Longest wait for a connection.
    pub connect_deadline: i64,
    /// No answer to a sync after this long: send it again, and begin with batches all the same.
    pub sync_deadline: i64,
    /// First and longest wait before connecting again.
    pub backoff: (i64, i64),
    /// Longest wait soon after the last answer, for fresh readings within seconds of a short outage; later it is a
    /// tenth of the silence.
    pub backoff_soon: i64,
    /// A connection that held this long resets the wait.
    pub stable_after: i64,
    /// No answer at all for this long with batches in flight: connect anew; later, after a part of the silence.
    pub silence: i64,
    /// The state is said on change, and anew after this long: an overloaded broker may have lost the last one.
    pub state_again: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            live_inflight: 16,
            backlog_inflight: 24,
            backlog_bytes_per_s: 1 << 20,
            ack_deadline: 15_000,
            connect_deadline: 20_000,
            sync_deadline: 10_000,
            backoff: (500, 60_000),
            backoff_soon: 10_000,
            stable_after: 30_000,
            silence: 90_000,
            state_again: 600_000,
        }
    }
}
