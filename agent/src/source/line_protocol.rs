//! Readings in InfluxDB's line protocol: owns its syntax and how a field becomes a sensor; one bad line never loses the others.
//!
//! `measurement,tag=x field=1.5,other=2i 1293858000000000000`: a field named `value` becomes the sensor
//! `measurement`, any other `measurement.field`; a tag `sensor` replaces the measurement's name. Text and
//! boolean fields are no readings and are passed over.

use fieldcast_features::Millis;
use fieldcast_wire::pb;

use super::json::{MAX_ITEMS, Parsed};
use super::{RawReading, clip};

/// Nanoseconds of one unit of a query's `precision`; none for an unknown one.
#[must_use]
pub fn precision(text: &str) -> Option<i128> {
    match text {
        "" | "n" | "ns" => Some(1),
        "u" | "us" | "µ" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        "m" => Some(60_000_000_000),
        "h" => Some(3_600_000_000_000),
        _ => None,
    }
}

/// Parses a body; errors carry the line's index, from 0. `unit` is what [`precision`] gave.
#[must_use]
pub fn parse(body: &str, unit: i128, now: Millis) -> Parsed {
    let mut out = Parsed::default();
    for (i, text) in body.lines().enumerate() {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if out.readings.len() >= MAX_ITEMS {
            let problem = format!("more than {MAX_ITEMS} readings at once; send them in parts");
            out.errors.push((i, problem));
            return out;
        }
        match line(text, unit, now) {
            Ok(readings) => out.readings.extend(readings.into_iter().map(|r| (i, r))),
            Err(problem) => out.errors.push((i, problem)),
        }
    }
    out
}

fn line(text: &str, unit: i128, now: Millis) -> Result<Vec<RawReading>, String> {
    let mut parts = split(text, b' ').into_iter().filter(|p| !p.is_empty());
    let series = parts.next().ok_or("an empty line")?;
    let fields = parts
        .next()
        .ok_or("no fields; expected `measurement field=value time`")?;
    let stamp = parts.next();
    if parts.next().is_some() {
        return Err("too many parts; escape spaces of names with `\\`".into());
    }
    let (time, time_source) = match stamp {
        None => (now, pb::TimeSource::Device),
        Some(stamp) => {
            let n: i128 = stamp
                .parse()
                .map_err(|_| format!("time `{}` is not a whole number", clip(stamp)))?;
            let ms = n.saturating_mul(unit).div_euclid(1_000_000);
            let ms = Millis::try_from(ms).map_err(|_| "the time is out of range".to_owned())?;
            (ms, pb::TimeSource::External)
        }
    };
    let mut series = split(series, b',').into_iter();
    let mut name = unescape(series.next().unwrap_or_default());
    for tag in series {
        if let [key, value] = split(tag, b'=').as_slice()
            && *key == "sensor"
        {
            name = unescape(value);
        }
    }
    let mut out = Vec::new();
    for field in split(fields, b',') {
        let parts = split(field, b'=');
        let [key, value] = parts.as_slice() else {
            return Err(format!("field `{}` is not `name=value`", clip(field)));
        };
        let Some(value) = number(value)? else {
            continue;
        };
        let key = unescape(key);
        let sensor = if key == "value" {
            name.clone()
        } else {
            format!("{name}.{key}")
        };
        out.push(RawReading {
            sensor,
            time,
            value,
            time_source,
        });
    }
    Ok(out)
}

/// A numeric field; none for texts and booleans.
fn number(text: &str) -> Result<Option<f64>, String> {
    let boolean = matches!(
        text,
        "t" | "T" | "true" | "True" | "TRUE" | "f" | "F" | "false" | "False" | "FALSE"
    );
    if boolean || text.starts_with('"') {
        return Ok(None);
    }
    let digits = text.strip_suffix(['i', 'u']).unwrap_or(text);
    match digits.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Some(value)),
        _ => Err(format!("value `{}` is not a finite number", clip(text))),
    }
}

/// Splits at a separator that is neither escaped nor inside a quoted text.
fn split(text: &str, at: u8) -> Vec<&str> {
    let (mut out, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (i, b) in text.bytes().enumerate() {
        if escaped {
            escaped = false;
        } else if b == b'\\' {
            escaped = true;
        } else if b == b'"' {
            quoted = !quoted;
        } else if b == at && !quoted {
            out.push(&text[start..i]);
            start = i + 1;
        }
    }
    out.push(&text[start..]);
    out
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(' ' | ',' | '=' | '\\')) => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Vec<(String, Millis, f64)> {
        let parsed = parse(text, 1, 7);
        assert_eq!(parsed.errors, [], "{text}");
        parsed
            .readings
            .into_iter()
            .map(|(_, r)| (r.sensor, r.time, r.value))
            .collect()
    }

    #[test]
    fn fields_become_sensors() {
        assert_eq!(
            one(
                "weather,place=yard temperature=21.5,humidity=40i,note=\"a, b\",ok=t 1293858000000000000"
            ),
            [
                ("weather.temperature".to_owned(), 1_293_858_000_000, 21.5),
                ("weather.humidity".to_owned(), 1_293_858_000_000, 40.0)
            ]
        );
        assert_eq!(one("temp value=1"), [("temp".to_owned(), 7, 1.0)]);
        assert_eq!(
            one("m,sensor=boiler\\ 1 value=1 5000000"),
            [("boiler 1".to_owned(), 5, 1.0)]
        );
        assert!(one("# a comment\n\n").is_empty());
        assert_eq!(
            parse("a value=1 5", precision("s").unwrap(), 0).readings[0]
                .1
                .time,
            5_000
        );
        assert_eq!(precision("x"), None);
    }

    #[test]
    fn a_bad_line_is_named_and_the_others_count() {
        let parsed = parse(
            "a value=1\nb\nc value=x\nd value=1 x\ne value\nf value=NaN\ng value=2",
            1,
            0,
        );
        assert_eq!(parsed.readings.len(), 2);
        assert_eq!(
            parsed.errors.iter().map(|e| e.0).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fail(text in ".{0,200}") {
            let _ = parse(&text, 1, 0);
        }
    }
}
