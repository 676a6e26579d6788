//! What one exchange says about the device's clock: owns the arithmetic, never reads a clock.

use fieldcast_features::Millis;

/// What one exchange with the hub says about the wall clock: `(offset, error)` in milliseconds.
///
/// `echo` is the monotonic time at which the device sent what the hub answered, `now` the monotonic and
/// wall time at which the answer came. The hub read its clock somewhere between, so half the round trip
/// bounds the error. None where the round trip is negative or over a minute.
#[must_use]
pub fn offset(
    echo: Millis,
    hub_time: Millis,
    now: Millis,
    now_wall: Millis,
) -> Option<(Millis, Millis)> {
    let round_trip = now.checked_sub(echo).filter(|r| (0..=60_000).contains(r))?;
    let error = round_trip / 2 + 1;
    Some((
        hub_time
            .checked_sub(now_wall)?
            .checked_add(round_trip / 2)?,
        error,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_is_within_its_error() {
        // Device one hour slow; request took 300 ms, answer 100 ms.
        let (echo, hub, now) = (1_000, 3_600_000 + 1_300, 1_400);
        let (offset, error) = offset(echo, hub, now, now).unwrap_or_default();
        assert!((offset - 3_600_000).abs() <= error, "{offset} {error}");
        assert_eq!(super::offset(2_000, hub, now, now), None);
        assert_eq!(super::offset(0, hub, 100_000, now), None);
    }
}
