//! Readings as JSON: owns the form `{"readings": [{"sensor", "time", "value"}]}`; one bad item never loses the others.

use fieldcast_features::{Millis, time_text};
use fieldcast_wire::pb;
use serde_json::Value;

use super::{RawReading, clip};

/// Most readings of one request.
pub const MAX_ITEMS: usize = 10_000;

/// What a body holds: readings with the index they had, and items that are none.
#[derive(Debug, Default, PartialEq)]
pub struct Parsed {
    /// Good ones.
    pub readings: Vec<(usize, RawReading)>,
    /// The others and why.
    pub errors: Vec<(usize, String)>,
}

/// Why a body as a whole is no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not the form.
    #[error(
        "the body is not what was expected ({problem}); send {{\"readings\": [{{\"sensor\": \"temperature\", \"time\": \"2026-11-24T01:00:00Z\", \"value\": 21.5}}]}}"
    )]
    Malformed {
        /// What was found.
        problem: String,
    },
    /// Too many items.
    #[error(
        "the body holds {found} readings, at most {MAX_ITEMS} are taken at once; send them in parts"
    )]
    TooMany {
        /// Items found.
        found: usize,
    },
}

/// Parses a body; `now` dates readings that carry no time.
///
/// # Errors
/// Not JSON, not the form, or too many items.
pub fn parse(body: &[u8], now: Millis) -> Result<Parsed, BodyError> {
    let malformed = |problem: String| BodyError::Malformed { problem };
    let value: Value = serde_json::from_slice(body).map_err(|e| malformed(e.to_string()))?;
    let Value::Object(mut object) = value else {
        return Err(malformed("not an object".into()));
    };
    let Some(Value::Array(items)) = object.remove("readings") else {
        return Err(malformed("no array `readings`".into()));
    };
    if let Some(key) = object.keys().next() {
        return Err(malformed(format!("unknown key `{}`", clip(key))));
    }
    if items.len() > MAX_ITEMS {
        return Err(BodyError::TooMany { found: items.len() });
    }
    let mut out = Parsed::default();
    for (i, item) in items.iter().enumerate() {
        match reading(item, now) {
            Ok(reading) => out.readings.push((i, reading)),
            Err(problem) => out.errors.push((i, problem)),
        }
    }
    Ok(out)
}

fn reading(item: &Value, now: Millis) -> Result<RawReading, String> {
    let object = item
        .as_object()
        .ok_or("not an object with sensor, time and value")?;
    if let Some(key) = object
        .keys()
        .find(|k| !matches!(k.as_str(), "sensor" | "time" | "value"))
    {
        return Err(format!(
            "unknown key `{}`; allowed are sensor, time, value",
            clip(key)
        ));
    }
    let sensor = object
        .get("sensor")
        .and_then(Value::as_str)
        .ok_or("`sensor` must be a text")?;
    let value = object
        .get("value")
        .and_then(Value::as_f64)
        .ok_or("`value` must be a finite number")?;
    let (time, time_source) = match object.get("time") {
        None | Some(Value::Null) => (now, pb::TimeSource::Device),
        Some(Value::String(text)) => (
            time_text::parse(text).map_err(|e| e.to_string())?,
            pb::TimeSource::External,
        ),
        Some(Value::Number(n)) => {
            let number = n.as_f64().ok_or("`time` must be a finite number")?;
            (
                time_text::from_number(number).map_err(|e| e.to_string())?,
                pb::TimeSource::External,
            )
        }
        Some(_) => return Err("`time` must be a text or a number".into()),
    };
    Ok(RawReading {
        sensor: sensor.to_owned(),
        time,
        value,
        time_source,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn one_bad_item_loses_none_of_the_others() {
        let body = br#"{"readings":[{"sensor":"t","time":"1970-01-01T00:00:01Z","value":1.5},
            {"sensor":"t","value":null},{"sensor":"t","time":2,"value":2},7,{"sensor":"t","value":3},
            {"sensor":"t","time":"x","value":1},{"sensor":"t","value":1,"unit":"C"}]}"#;
        let parsed = parse(body, 99).unwrap();
        let times: Vec<_> = parsed.readings.iter().map(|(i, r)| (*i, r.time)).collect();
        assert_eq!(times, [(0, 1_000), (2, 2_000), (4, 99)]);
        assert_eq!(parsed.readings[2].1.time_source, pb::TimeSource::Device);
        let bad: Vec<_> = parsed.errors.iter().map(|(i, _)| *i).collect();
        assert_eq!(bad, [1, 3, 5, 6]);
    }

    #[test]
    fn a_body_that_is_something_else_is_refused_with_the_form() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"readings":1}"#,
            r#"{"readings":[],"x":1}"#,
            "{\"readings\":[",
        ] {
            let e = parse(body.as_bytes(), 0).unwrap_err().to_string();
            assert!(e.contains("\"sensor\""), "{body}: {e}");
        }
        let many = format!("{{\"readings\":[{}]}}", vec!["0"; MAX_ITEMS + 1].join(","));
        assert_eq!(
            parse(many.as_bytes(), 0),
            Err(BodyError::TooMany {
                found: MAX_ITEMS + 1
            })
        );
    }
}
