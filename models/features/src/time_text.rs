//! Times as people and files write them: owns the accepted forms, never reads a clock. Times without a zone are UTC.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};

use crate::Millis;

/// From here on a whole number is milliseconds: as seconds it would be the year 5138.
const MILLIS_FROM: f64 = 1e11;
/// Most milliseconds of a time, either way: some 31,000 years.
const MOST: f64 = 1e15;
const HOUR_MS: Millis = 3_600_000;

/// A text that is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// A time that stands alone.
    #[error(
        "`{found}` is not a time; expected RFC 3339 (2026-11-24T01:00:00Z), `YYYY-MM-DD HH:MM[:SS]`, `YYYY-MM-DD`, or Unix seconds or milliseconds"
    )]
    Time {
        /// What was found, cut.
        found: String,
    },
    /// A date beside an hour or time of day.
    #[error("`{found}` is not a date; expected YYYY-MM-DD")]
    Date {
        /// What was found, cut.
        found: String,
    },
    /// An hour or time of day beside a date.
    #[error("`{found}` is not a time of day; expected an hour from 0 to 24 or HH:MM[:SS]")]
    OfDay {
        /// What was found, cut.
        found: String,
    },
    /// Neither one field nor two.
    #[error("{count} fields for one time; expected a time, or a date and an hour or time of day")]
    Fields {
        /// How many there are.
        count: usize,
    },
}

/// Parses a time in one field, or a date and an hour or time of day in two.
///
/// # Errors
/// The accepted forms, where a field is none of them.
pub fn parse_fields(fields: &[&str]) -> Result<Millis, TimeError> {
    match fields {
        [time] => parse(time),
        [day, of_day] => parse_pair(day, of_day),
        _ => Err(TimeError::Fields {
            count: fields.len(),
        }),
    }
}

/// Parses a time.
///
/// # Errors
/// The accepted forms, where the text is none of them.
pub fn parse(text: &str) -> Result<Millis, TimeError> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return from_number(number);
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_millis());
    }
    without_zone(text)
        .map(|time| time.and_utc().timestamp_millis())
        .ok_or_else(|| TimeError::Time { found: clip(text) })
}

/// Unix seconds or, from 1e11 on, milliseconds.
///
/// # Errors
/// Where the number is not finite or outside what is accepted.
pub fn from_number(number: f64) -> Result<Millis, TimeError> {
    let ms = if number.abs() >= MILLIS_FROM {
        number
    } else {
        number * 1_000.0
    };
    if !ms.is_finite() || ms.abs() > MOST {
        return Err(TimeError::Time {
            found: number.to_string(),
        });
    }
    #[allow(clippy::cast_possible_truncation, reason = "bounded just above")]
    Ok(ms.round() as Millis)
}

/// Parses a date (a time at midnight will do) together with an hour, 0 to 24, or a time of day. Hour 24 is the next midnight,
/// as in files whose days have hours 1 to 24.
///
/// # Errors
/// What was expected, where one of the two is anything else.
pub fn parse_pair(day: &str, of_day: &str) -> Result<Millis, TimeError> {
    let (day, of_day) = (day.trim(), of_day.trim());
    let start = without_zone(day)
        .filter(|time| time.time() == NaiveTime::MIN)
        .ok_or_else(|| TimeError::Date { found: clip(day) })?
        .and_utc()
        .timestamp_millis();
    if let Ok(hour) = of_day.parse::<i64>()
        && (0..=24).contains(&hour)
    {
        return Ok(start + hour * HOUR_MS);
    }
    ["%H:%M:%S%.f", "%H:%M"]
        .iter()
        .find_map(|form| NaiveTime::parse_from_str(of_day, form).ok())
        .map(|time| {
            start
                + time
                    .signed_duration_since(NaiveTime::MIN)
                    .num_milliseconds()
        })
        .ok_or_else(|| TimeError::OfDay {
            found: clip(of_day),
        })
}

fn without_zone(text: &str) -> Option<NaiveDateTime> {
    [
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%d %H:%M",
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
    ]
    .iter()
    .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
    .or_else(|| {
        let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        Some(day.and_time(NaiveTime::MIN))
    })
}

fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_accepted_form_means_the_same_instant() {
        for fields in [
            &["2011-01-01T05:00:00Z"][..],
            &["2011-01-01T06:00:00+01:00"],
            &["2011-01-01 05:00"],
            &["2011-01-01 05:00:00"],
            &["2011-01-01 05:00:00.000"],
            &["2011-01-01T05:00"],
            &["1293858000"],
            &["1293858000000"],
            &[" 1293858000.0 "],
            &["2011-01-01", "5"],
            &["2011-01-01", " 05:00"],
            &["2011-01-01", "05:00:00"],
            &["2011-01-01 00:00:00", "5"],
        ] {
            assert_eq!(parse_fields(fields), Ok(1_293_858_000_000), "{fields:?}");
        }
        assert_eq!(parse("2011-01-01").unwrap(), 1_293_840_000_000);
        assert_eq!(
            parse_pair("2011-01-01", "24"),
            parse_pair("2011-01-02", "0")
        );
    }

    #[test]
    fn anything_else_says_what_was_expected() {
        for text in ["", "yesterday", "2011-13-01", "inf", "NaN", "1e300", "9e30"] {
            let e = parse(text).unwrap_err().to_string();
            assert!(e.contains("RFC 3339"), "{text}: {e}");
        }
        for (fields, says) in [
            (&["2011-01-01", "25"][..], "0 to 24"),
            (&["2011-01-01", "-1"], "0 to 24"),
            (&["01.01.2011", "5"], "YYYY-MM-DD"),
            (&["20110101", "5"], "YYYY-MM-DD"),
            (&["2011-01-01 03:00", "5"], "YYYY-MM-DD"),
            (&[], "0 fields"),
            (&["2011-01-01", "5", "0"], "3 fields"),
        ] {
            let e = parse_fields(fields).unwrap_err().to_string();
            assert!(e.contains(says), "{fields:?}: {e}");
        }
        let long = parse(&"x".repeat(10_000)).unwrap_err().to_string();
        assert!(long.len() < 300);
    }
}
