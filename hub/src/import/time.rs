//! Times as files write them: owns their spellings, never a clock.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};
use fieldcast_wire::caps::{MAX_TIME_MS, MIN_TIME_MS};

/// What a time may look like, for errors.
pub const EXPECTED: &str = "RFC 3339, `YYYY-MM-DD HH:MM[:SS]` or `YYYY-MM-DD` in UTC, an hour 0-23 beside a date, or Unix seconds or milliseconds";

/// Milliseconds UTC from one field, or from a date and an hour or time of day in two.
#[must_use]
pub fn parse(fields: &[&str]) -> Option<i64> {
    let ms = match fields {
        [one] => single(one.trim())?,
        [date, rest] => dated(date.trim(), rest.trim())?,
        _ => return None,
    };
    (MIN_TIME_MS..=MAX_TIME_MS).contains(&ms).then_some(ms)
}

fn single(text: &str) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_millis());
    }
    for format in [
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%d %H:%M",
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
    ] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Some(time.and_utc().timestamp_millis());
        }
    }
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(date.and_time(NaiveTime::MIN).and_utc().timestamp_millis());
    }
    let number: f64 = text.parse().ok().filter(|n: &f64| n.is_finite())?;
    // Seconds until the year 5138, milliseconds from 1973 on.
    let ms = if number.abs() < 1e11 {
        number * 1_000.0
    } else {
        number
    };
    #[allow(
        clippy::cast_possible_truncation,
        reason = "saturates, and the caller checks the range"
    )]
    Some(ms.round() as i64)
}

fn dated(date: &str, rest: &str) -> Option<i64> {
    let day = single(date)?;
    if let Ok(hour) = rest.parse::<i64>() {
        return (0..24).contains(&hour).then_some(day + hour * 3_600_000);
    }
    let time = ["%H:%M:%S%.f", "%H:%M"]
        .iter()
        .find_map(|f| NaiveTime::parse_from_str(rest, f).ok())?;
    Some(
        day + time
            .signed_duration_since(NaiveTime::MIN)
            .num_milliseconds(),
    )
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn all_spellings_of_one_time_are_one_time() {
        let ms = Some(1_325_386_800_000);
        for fields in [
            &["2012-01-01T03:00:00Z"][..],
            &["2012-01-01T04:00:00+01:00"],
            &["2012-01-01 03:00"],
            &["2012-01-01 03:00:00"],
            &["1325386800"],
            &["1325386800000"],
            &["2012-01-01", "3"],
            &["2012-01-01", "03:00"],
        ] {
            assert_eq!(parse(fields), ms, "{fields:?}");
        }
        for fields in [
            &["yesterday"][..],
            &["2012-13-01"],
            &["2012-01-01", "24"],
            &["NaN"],
            &["9e30"],
            &[],
        ] {
            assert_eq!(parse(fields), None, "{fields:?}");
        }
    }
}
