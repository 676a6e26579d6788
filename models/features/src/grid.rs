//! The time grid: owns periods and grid times in UTC milliseconds, never reads a clock.

/// Milliseconds since 1970-01-01T00:00:00Z; the unit of every time in Fieldcast.
pub type Millis = i64;

/// Earliest time the pipeline takes: 0001-01-01T00:00:00Z.
pub const MIN_TIME: Millis = -62_135_596_800_000;
/// Latest time the pipeline takes: 9999-12-31T23:59:59Z. Within these bounds no grid arithmetic can overflow.
pub const MAX_TIME: Millis = 253_402_300_799_000;

/// Whether a time can be worked with.
#[must_use]
pub fn is_time(time: Millis) -> bool {
    (MIN_TIME..=MAX_TIME).contains(&time)
}

/// Parses `30s`, `15m`, `1h`, `1d` into milliseconds.
///
/// # Errors
/// What is allowed, where the text is anything else.
pub fn parse_period(text: &str) -> Result<Millis, String> {
    let allowed = || format!("`{text}` must be a whole number with s, m, h or d, such as `1h`");
    let split = text
        .len()
        .checked_sub(1)
        .filter(|i| text.is_char_boundary(*i))
        .ok_or_else(allowed)?;
    let (number, unit) = text.split_at(split);
    let factor: Millis = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(allowed()),
    };
    let n: Millis = number.parse().map_err(|_| allowed())?;
    if n <= 0 || n > 36_500 {
        return Err(allowed());
    }
    Ok(n * factor)
}

/// The grid time at or before `time`.
#[must_use]
pub fn floor_of(time: Millis, period: Millis) -> Millis {
    time.div_euclid(period) * period
}

/// The grid time at or after `time`: a reading at `time` belongs to the slot `(t - period, t]`,
/// so that a row known at `t` never holds anything measured after `t`.
#[must_use]
pub fn slot_of(time: Millis, period: Millis) -> Millis {
    let floor = floor_of(time, period);
    if floor == time { floor } else { floor + period }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read_and_nonsense_is_refused() {
        assert_eq!(parse_period("15m"), Ok(900_000));
        assert_eq!(parse_period("1d"), Ok(86_400_000));
        for bad in [
            "",
            "h",
            "0h",
            "-1h",
            "1.5h",
            "1w",
            "\u{b5}",
            "99999999999999999999s",
        ] {
            assert!(parse_period(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_slot_ends_at_or_after_its_reading() {
        assert_eq!(slot_of(60_000, 60_000), 60_000);
        assert_eq!(slot_of(60_001, 60_000), 120_000);
        assert_eq!(slot_of(-1, 60_000), 0);
    }
}
