//! Times as people write them: owns the accepted forms; never reads a clock. Times without a zone are UTC.

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use fieldcast_features::Millis;

const FORMS: &str = "RFC 3339 (2026-11-24T01:00:00Z), `YYYY-MM-DD HH:MM[:SS]`, `YYYY-MM-DD`, or Unix seconds or milliseconds";

/// From here on a whole number is milliseconds: as seconds it would be the year 5138.
const MILLIS_FROM: f64 = 1e11;

/// Parses a time.
///
/// # Errors
/// The accepted forms, where the text is none of them.
pub fn parse(text: &str) -> Result<Millis, String> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return from_number(number);
    }
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_millis());
    }
    for form in [
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%d %H:%M",
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
    ] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, form) {
            return Ok(time.and_utc().timestamp_millis());
        }
    }
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(day.and_time(NaiveTime::MIN).and_utc().timestamp_millis());
    }
    Err(format!("`{}` is not a time; expected {FORMS}", clip(text)))
}

/// Unix seconds or, from 1e11 on, milliseconds.
///
/// # Errors
/// Where the number is not finite or outside what is accepted.
pub fn from_number(number: f64) -> Result<Millis, String> {
    let ms = if number.abs() >= MILLIS_FROM {
        number
    } else {
        number * 1_000.0
    };
    if !ms.is_finite() || ms.abs() > 1e15 {
        return Err(format!("{number} is not a time; expected {FORMS}"));
    }
    #[allow(clippy::cast_possible_truncation, reason = "bounded just above")]
    Ok(ms.round() as Millis)
}

/// Parses a date column together with an hour (0 to 23) or time-of-day column.
///
/// # Errors
/// What was expected, where one of the two is anything else.
pub fn parse_pair(day: &str, of_day: &str) -> Result<Millis, String> {
    let start = NaiveDate::parse_from_str(day.trim(), "%Y-%m-%d")
        .map_err(|_| format!("`{}` is not a date; expected YYYY-MM-DD", clip(day)))?
        .and_time(NaiveTime::MIN)
        .and_utc()
        .timestamp_millis();
    let text = of_day.trim();
    if let Ok(hour) = text.parse::<i64>()
        && (0..=24).contains(&hour)
    {
        return Ok(start + hour * 3_600_000);
    }
    for form in ["%H:%M:%S%.f", "%H:%M"] {
        if let Ok(time) = NaiveTime::parse_from_str(text, form) {
            let since = time.signed_duration_since(NaiveTime::MIN);
            return Ok(start + since.num_milliseconds());
        }
    }
    Err(format!(
        "`{}` is not a time of day; expected an hour from 0 to 24 or HH:MM[:SS]",
        clip(text)
    ))
}

/// At most 40 characters of foreign text, for messages.
#[must_use]
pub fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_accepted_form_means_the_same_instant() {
        for text in [
            "2011-01-01T05:00:00Z",
            "2011-01-01T06:00:00+01:00",
            "2011-01-01 05:00",
            "2011-01-01 05:00:00",
            "2011-01-01T05:00",
            "1293858000",
            "1293858000000",
            " 1293858000.0 ",
        ] {
            assert_eq!(parse(text).unwrap(), 1_293_858_000_000, "{text}");
        }
        assert_eq!(parse_pair("2011-01-01", "5").unwrap(), 1_293_858_000_000);
        assert_eq!(
            parse_pair("2011-01-01", "05:00").unwrap(),
            1_293_858_000_000
        );
        assert_eq!(parse("2011-01-01").unwrap(), 1_293_840_000_000);
    }

    #[test]
    fn anything_else_says_what_was_expected() {
        for text in ["", "yesterday", "2011-13-01", "inf", "NaN", "1e300"] {
            let e = parse(text).unwrap_err();
            assert!(e.contains("RFC 3339"), "{text}: {e}");
        }
        assert!(parse_pair("2011-01-01", "25").is_err());
        assert!(
            parse_pair("01.01.2011", "5")
                .unwrap_err()
                .contains("YYYY-MM-DD")
        );
    }
}
