//! How times in order are stored: owns their differences, which take half the room, never a time.

use std::collections::VecDeque;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The first, then by how much each is behind the one before.
pub(super) fn serialize<S: Serializer>(times: &VecDeque<i64>, to: S) -> Result<S::Ok, S::Error> {
    let mut before = 0;
    let apart = times.iter().map(|time| {
        let by = time.wrapping_sub(before);
        before = *time;
        by
    });
    apart.collect::<Vec<i64>>().serialize(to)
}

/// Sums them up again.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<VecDeque<i64>, D::Error> {
    let mut time = 0_i64;
    let apart = Vec::<i64>::deserialize(from)?;
    let times = apart.into_iter().map(|by| {
        time = time.wrapping_add(by);
        time
    });
    Ok(times.collect())
}
