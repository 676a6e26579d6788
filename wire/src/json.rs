//! Payload of `up/json`: owns the form of readings from things that run no agent, never what becomes of them.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use crate::caps::{MAX_PAYLOAD, MAX_RECORDS};

/// A document that is not the form, or over a cap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Over a cap.
    #[error("{found} {what} are over the cap of {most}; send less at once")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// How many are taken.
        most: u64,
    },
    /// Not the form.
    #[error(
        r#"readings cannot be read ({problem}); expected {{"sensor": "t", "time": "2026-01-01T00:00:00Z", "value": 1.5}}, an array of such, or {{"readings": [...]}}"#
    )]
    Malformed {
        /// What was found, and where.
        problem: String,
    },
}

/// One reading.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonReading {
    /// Sensor name.
    pub sensor: String,
    /// Data time, milliseconds UTC.
    #[serde(deserialize_with = "millis")]
    pub time: i64,
    /// Value.
    pub value: f64,
}

#[derive(Deserialize)]
struct Named {
    readings: Option<Vec<JsonReading>>,
}

/// Reads `{"sensor", "time", "value"}`, an array of such, or `{"readings": [...]}`. Times are RFC 3339 text or
/// milliseconds since 1970. What is no reading is passed over or refused as it comes, and takes no memory.
///
/// # Errors
/// What is wrong and what is expected.
pub fn parse(bytes: &[u8]) -> Result<Vec<JsonReading>, FormError> {
    let too_many = |what, found, most| Err(FormError::TooMany { what, found, most });
    if bytes.len() > MAX_PAYLOAD {
        return too_many("bytes", bytes.len(), MAX_PAYLOAD as u64);
    }
    let readings = document(bytes).map_err(|e| FormError::Malformed {
        problem: e.to_string(),
    })?;
    if readings.len() as u64 > MAX_RECORDS {
        return too_many("readings", readings.len(), MAX_RECORDS);
    }
    Ok(readings)
}

fn document(bytes: &[u8]) -> serde_json::Result<Vec<JsonReading>> {
    if bytes.trim_ascii_start().starts_with(b"[") {
        return serde_json::from_slice(bytes);
    }
    match serde_json::from_slice(bytes)? {
        Named {
            readings: Some(readings),
        } => Ok(readings),
        Named { readings: None } => Ok(vec![serde_json::from_slice(bytes)?]),
    }
}

fn millis<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    struct Time;

    impl Visitor<'_> for Time {
        type Value = i64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("RFC 3339 text or milliseconds since 1970")
        }

        fn visit_i64<E: serde::de::Error>(self, millis: i64) -> Result<i64, E> {
            Ok(millis)
        }

        fn visit_u64<E: serde::de::Error>(self, millis: u64) -> Result<i64, E> {
            i64::try_from(millis).map_err(|_| E::custom("milliseconds that no clock shows"))
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<i64, E> {
            let time = chrono::DateTime::parse_from_rfc3339(text);
            time.map(|t| t.timestamp_millis())
                .map_err(|_| E::custom("a time that is not RFC 3339"))
        }
    }

    from.deserialize_any(Time)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_and_clear_refusals() {
        let one = br#"{"sensor":"t","time":"1970-01-01T00:00:01Z","value":2}"#;
        let expected = vec![JsonReading {
            sensor: "t".into(),
            time: 1000,
            value: 2.0,
        }];
        assert_eq!(parse(one).unwrap(), expected);
        for same in [
            &br#" [{"sensor":"t","time":1000,"value":2}]"#[..],
            br#"{"readings":[{"sensor":"t","time":1000,"value":2}]}"#,
            br#"{"device":{"a":[1]},"readings":[{"sensor":"t","time":1000,"value":2}]}"#,
        ] {
            assert_eq!(parse(same).unwrap(), expected);
        }
        let last = br#"{"sensor":"t","time":"9999-12-31T23:59:60Z","value":2}"#;
        assert!(parse(last).unwrap()[0].time > crate::caps::MAX_TIME_MS);
        for (wrong, why) in [
            (&b"{"[..], "EOF"),
            (br#"{"sensor":"t"}"#, "missing field `time`"),
            (
                br#"[{"sensor":"t","time":"yesterday","value":2}]"#,
                "not RFC 3339",
            ),
            (
                br#"[{"sensor":"t","time":"+10000-01-01T00:00:00Z","value":2}]"#,
                "not RFC 3339",
            ),
            (
                br#"[{"sensor":"t","time":18446744073709551615,"value":2}]"#,
                "no clock",
            ),
            (
                br#"[{"sensor":"t","time":[[[]]],"value":2}]"#,
                "invalid type: sequence",
            ),
            (
                br#"[{"sensor":"t","time":1,"value":1e999}]"#,
                "out of range",
            ),
            (
                br#"[{"sensor":"t","time":1,"value":1,"unit":"K"}]"#,
                "unknown field `unit`",
            ),
            (br#"[{"sensor":"t","time":1,"value":1}] []"#, "trailing"),
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(
                error.contains("expected {") && error.contains(why),
                "{error}"
            );
        }
        let long = vec![b' '; MAX_PAYLOAD + 1];
        assert!(matches!(parse(&long), Err(FormError::TooMany { .. })));
    }
}
